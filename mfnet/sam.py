"""The one place that imports segment_anything. Knows nothing of MFNet.

Importing segment_anything imports torchvision, which it hardly uses; some builds of torchvision
lack their compiled operators on a CPU-only torch and fail before anything of SAM is reached.
"""

from __future__ import annotations

import sys

import torch

_OPERATORS = ("nms", "qnms")
_libraries: list[torch.library.Library] = []  # a Library that is collected takes its schemas along


def _make_torchvision_importable() -> None:
    """Declare the operators a torchvision without compiled ones names while it is imported.

    Only the schemas: calling them still fails, and nothing of MFNet or SAM's encoder does.
    """
    try:
        import torchvision  # noqa: F401
    except RuntimeError as fault:
        if "operator torchvision::nms does not exist" not in str(fault):
            raise
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]  # half imported
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
