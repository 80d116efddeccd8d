"""Meta's SAM files into the encoder, by name, with a report of what happened to each tensor.

Knows the `sam_vit_*.pth` format: one flat state_dict of `image_encoder.*`, `prompt_encoder.*` and
`mask_decoder.*`, of which MFNet runs the first.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from mfnet.checkpoints.torch_file import read_torch_file, tensors_only
from mfnet.model.encoder import TwoStreamEncoder, resized_position
from mfnet_runtime.errors import ModelError

_PREFIX = "image_encoder."
_TABLES = (".rel_pos_h", ".rel_pos_w")
_REMEDY = "download it again from the links in the segment-anything README"


@dataclass(frozen=True)
class SamReport:
    """Names of the encoder's tensors by what became of them; one may be resized and loaded."""

    loaded: tuple[str, ...]  # hold the file's values
    missing: tuple[str, ...]  # relative-position tables the file lacks; they keep their values
    unexpected: tuple[str, ...]  # encoder tensors of the file that this encoder has no place for
    resized: tuple[str, ...]  # loaded after interpolation
    zeroed: tuple[str, ...]  # relative-position tables set to zero because the caller asked

    def summary(self) -> str:
        """One line for a log."""
        parts = [f"{len(self.loaded)} SAM tensors loaded"]
        for word in ("resized", "zeroed", "missing", "unexpected"):
            names = getattr(self, word)
            if names:
                parts.append(f"{len(names)} {word} ({names[0]}{', ...' if names[1:] else ''})")
        return "; ".join(parts)


def load_sam_weights(
    encoder: TwoStreamEncoder, path: Path, *, zero_rel_pos: bool = False
) -> SamReport:
    """Load a SAM file into `encoder.sam`; nothing is loaded if anything does not fit.

    Args:
        encoder: Of the same width and depth as the file.
        path: A `sam_vit_*.pth`; tables named rel_h, rel_w are understood as well.
        zero_rel_pos: Set the relative-position tables to zero, which is what the official
            implementation ends up with (MFNET.md 2), in place of loading them.

    Raises:
        UsageError: no such file.
        ModelError: damaged, holding code, not SAM's, or of another size; lists all misfits.
    """
    data = tensors_only(read_torch_file(path, _REMEDY), path, _REMEDY)
    source = {_renamed(name): t for name, t in data.items() if name.startswith(_PREFIX)}
    if not source:
        raise ModelError(f"{path} holds no {_PREFIX}* tensors: it is not a SAM file; {_REMEDY}")
    target: dict[str, Tensor] = encoder.sam.state_dict()
    planned: dict[str, Tensor] = {}
    missing: list[str] = []
    resized: list[str] = []
    zeroed: list[str] = []
    faults: list[str] = []
    for name, old in target.items():
        table = name.endswith(_TABLES)
        if table and zero_rel_pos:
            planned[name] = torch.zeros_like(old)
            zeroed.append(name)
        elif name not in source:
            (missing if table else faults).append(name if table else f"missing: {name}")
        elif (new := _fitted(name, source[name], old)) is None:
            found, expected = tuple(source[name].shape), tuple(old.shape)
            faults.append(f"{name}: {source[name].dtype} {found}, expected {expected}")
        else:
            planned[name] = new
            if new.shape != source[name].shape:
                resized.append(name)
    if faults:
        raise ModelError(
            f"{path} does not fit the encoder ({len(faults)} of {len(target)} tensors): "
            f"{'; '.join(faults)}; choose the network size of this file"
        )
    with torch.no_grad():
        for name, new in planned.items():
            target[name].copy_(new)  # state_dict shares storage with the encoder
    return SamReport(
        loaded=tuple(name for name in planned if name not in zeroed),
        missing=tuple(missing),
        unexpected=tuple(name for name in source if name not in target),
        resized=tuple(resized),
        zeroed=tuple(zeroed),
    )


def _renamed(name: str) -> str:
    """Our name of a tensor of the file."""
    name = name.removeprefix(_PREFIX)
    return name.replace("attn.rel_h", "attn.rel_pos_h").replace("attn.rel_w", "attn.rel_pos_w")


def _fitted(name: str, new: Tensor, old: Tensor) -> Tensor | None:
    """`new` in the shape of `old`, interpolated where that has a meaning; None if it does not."""
    if not new.is_floating_point():
        return None
    if new.shape == old.shape:
        return new
    if new.ndim != old.ndim or new.shape[-1] != old.shape[-1] or 0 in new.shape:
        return None
    if name == "pos_embed":
        return resized_position(new.float(), old.shape[1])
    if name.endswith(_TABLES):
        rows = new.float().T[None]  # (1, d, length)
        return F.interpolate(rows, size=old.shape[0], mode="linear", align_corners=False)[0].T
    return None
