"""Weights as training loops save them: under a key, with prefixes, beside other values."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

logger = logging.getLogger(__name__)

ENCODER = "image_encoder."  # begins the names of the weights of SAM and of official MFNet
KEYS = ("", "state_dict", "model_state_dict", "model", "net", "module")  # before any other key
_COMPILED = "_orig_mod."  # torch.compile puts it before the names of what it compiled


def find_weights(data: Any, path: Path) -> dict[str, Tensor] | None:
    """Find the weights of a network with SAM's image encoder, wherever they are in a file.

    Args:
        data: Content of the file: nested mappings, in which other values are ignored.
        path: The file, for messages.

    Returns:
        The tensors by name, from `image_encoder.` on without the keys and prefixes before it, such
        as `state_dict` or `module.`; None if there are none.
    """
    tensors = {name.replace(_COMPILED, ""): tensor for name, tensor in _tensors_in(data)}
    before = {name.partition(ENCODER)[0] for name in tensors if ENCODER in name}
    if not before:
        return None

    def rank(prefix: str) -> tuple[int, int]:
        key = prefix.partition(".")[0]
        return KEYS.index(key) if key in KEYS else len(KEYS), len(prefix)

    prefix, *others = sorted(before, key=rank)
    others = [other for other in others if other != f"{prefix}sam."]  # official files hold it twice
    if others:
        names = [repr(name.rstrip(".")) for name in (prefix, *others)]
        logger.warning("%s: its weights %s are taken, not %s", path.name, names[0], names[1])
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


def _tensors_in(data: Any) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors in nested mappings, each with its keys joined by dots."""
    seen: set[int] = set()  # a pickle may hold a mapping that contains itself
    waiting = [("", data)]
    while waiting:
        prefix, part = waiting.pop()
        if not isinstance(part, Mapping) or id(part) in seen:
            continue
        seen.add(id(part))
        for key, value in part.items():
            if isinstance(value, Tensor):
                yield f"{prefix}{key}", value
            else:
                waiting.append((f"{prefix}{key}.", value))
