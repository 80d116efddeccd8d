"""SAM's modules; nothing else imports segment_anything.

Importing segment_anything imports torchvision, which it hardly uses. Some builds of torchvision
have no compiled operators on a CPU-only torch and fail to import, so their schemas are declared
here first.
"""

from __future__ import annotations

import sys

import torch

_OPERATORS = ("nms", "qnms")
_libraries: list[torch.library.Library] = []  # schemas disappear with the Library object


def _make_torchvision_importable() -> None:
    """Declare the operators that torchvision refers to while it is imported.

    Calling them still fails, but neither MFNet nor SAM's encoder does.
    """
    try:
        import torchvision  # noqa: F401
    except RuntimeError as fault:
        if "operator torchvision::nms does not exist" not in str(fault):
            raise
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]  # partially imported
        library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
        for operator in _OPERATORS:
            schema = f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            library.define(schema)  # type: ignore[no-untyped-call]
        _libraries.append(library)


_make_torchvision_importable()

from segment_anything.modeling.common import LayerNorm2d  # noqa: E402
from segment_anything.modeling.image_encoder import (  # noqa: E402
    Block,
    ImageEncoderViT,
    add_decomposed_rel_pos,
    get_rel_pos,
    window_partition,
    window_unpartition,
)

__all__ = [
    "Block",
    "ImageEncoderViT",
    "LayerNorm2d",
    "add_decomposed_rel_pos",
    "get_rel_pos",
    "window_partition",
    "window_unpartition",
]
