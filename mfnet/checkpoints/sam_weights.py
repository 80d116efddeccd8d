"""Load Meta's SAM files into the encoder, by name.

A `sam_vit_*.pth` is one flat state_dict of `image_encoder.*`, `prompt_encoder.*` and
`mask_decoder.*`, of which MFNet uses the first.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from mfnet.checkpoints.torch_file import read_torch_file, require_tensors
from mfnet.checkpoints.wrappers import ENCODER, find_weights
from mfnet.config import PRESETS
from mfnet.model.encoder import TwoStreamEncoder, resize_position
from mfnet_runtime.errors import ModelError

_TABLES = (".rel_pos_h", ".rel_pos_w")
MAX_NAMED = 5  # tensors named in a message
_REMEDY = "download it again from the links in the segment-anything README"


@dataclass(frozen=True)
class SamReport:
    """Names of tensors by what happened to them; a resized tensor is also loaded."""

    loaded: tuple[str, ...]
    missing: tuple[str, ...]  # relative-position tables not in the file; they keep their values
    unexpected: tuple[str, ...]  # tensors of the file that the encoder has no place for
    resized: tuple[str, ...]  # interpolated
    zeroed: tuple[str, ...]  # relative-position tables zeroed on request

    def __str__(self) -> str:
        parts = [f"{len(self.loaded)} SAM tensors loaded"]
        for word in ("resized", "zeroed", "missing", "unexpected"):
            names = getattr(self, word)
            if names:
                parts.append(f"{len(names)} {word} ({names[0]}{', ...' if names[1:] else ''})")
        return "; ".join(parts)


def load_sam_weights(
    encoder: TwoStreamEncoder, path: Path, *, zero_rel_pos: bool = False
) -> SamReport:
    """Load a SAM file into `encoder.sam`; if anything does not fit, nothing is loaded.

    Args:
        encoder: Encoder of the same width and depth as the file.
        path: A `sam_vit_*.pth`; tables named rel_h and rel_w are accepted as well.
        zero_rel_pos: Zero the relative-position tables instead of loading them, which is what the
            official implementation ends up with.

    Raises:
        UsageError: The file does not exist.
        ModelError: The file is damaged, holds code, is not SAM's, or is of another size.
    """
    data = find_weights(read_torch_file(path, _REMEDY), path)
    if data is None:
        raise ModelError(f"{path} holds no {ENCODER}* tensors: it is not a SAM file; {_REMEDY}")
    tensors = require_tensors(data, path, _REMEDY).items()
    source = {_our_name(name): tensor for name, tensor in tensors if name.startswith(ENCODER)}
    target: dict[str, Tensor] = encoder.sam.state_dict()
    planned: dict[str, Tensor] = {}
    missing: list[str] = []
    resized: list[str] = []
    zeroed: list[str] = []
    faults: list[str] = []
    for name, old in target.items():
        is_table = name.endswith(_TABLES)
        if is_table and zero_rel_pos:
            planned[name] = torch.zeros_like(old)
            zeroed.append(name)
        elif name not in source:
            (missing if is_table else faults).append(name if is_table else f"missing: {name}")
        elif (new := _fit(name, source[name], old)) is None:
            found, expected = tuple(source[name].shape), tuple(old.shape)
            faults.append(f"{name}: {source[name].dtype} {found}, expected {expected}")
        else:
            planned[name] = new
            if new.shape != source[name].shape:
                resized.append(name)
    if faults:
        raise ModelError(f"{path}: {_misfit(source, target, faults)}")
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


def _misfit(source: dict[str, Tensor], target: dict[str, Tensor], faults: list[str]) -> str:
    """Say which network size a file fits, or else which tensors do not fit."""
    (found, depth), (width, blocks) = _size(source), _size(target)
    if (found, depth) == (width, blocks):
        more = "; ..." if len(faults) > MAX_NAMED else ""
        return (
            f"{len(faults)} of {len(target)} tensors do not fit the encoder: "
            f"{'; '.join(faults[:MAX_NAMED])}{more}; {_REMEDY}"
        )
    fits = [
        name
        for name, preset in PRESETS.items()
        if (preset["embed_dim"], preset["depth"]) == (found, depth)
    ]
    remedy = f"use --backbone {fits[0]}" if fits else "use the file of the network's size"
    return (
        f"has {depth} blocks of width {found}, the network has {blocks} of width {width}; {remedy}"
    )


def _size(tensors: dict[str, Tensor]) -> tuple[int, int]:
    """Return width and number of blocks of an encoder; 0 where there is no position embedding."""
    position = tensors.get("pos_embed", torch.empty(0))
    return position.shape[-1], len({n.split(".")[1] for n in tensors if n.startswith("blocks.")})


def _our_name(name: str) -> str:
    name = name.removeprefix(ENCODER)
    return name.replace("attn.rel_h", "attn.rel_pos_h").replace("attn.rel_w", "attn.rel_pos_w")


def _fit(name: str, new: Tensor, old: Tensor) -> Tensor | None:
    """Return `new` in the shape of `old`, interpolated if it is positional; None if it differs."""
    if not new.is_floating_point():
        return None
    if new.shape == old.shape:
        return new
    if new.ndim != old.ndim or new.shape[-1] != old.shape[-1] or 0 in new.shape:
        return None
    if name == "pos_embed":
        return resize_position(new.float(), old.shape[1])
    if name.endswith(_TABLES):
        rows = new.float().T[None]  # (1, d, length)
        return F.interpolate(rows, size=old.shape[0], mode="linear", align_corners=False)[0].T
    return None
