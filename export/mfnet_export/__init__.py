"""Checkpoint to merged network to ONNX, with proof of parity. Imports torch only when used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mfnet_export.export import exported
    from mfnet_export.graph.export import onnx_from_network
    from mfnet_export.rewrites.steps import merged_from_network
    from mfnet_export.validation.parity import compared

__all__ = ["compared", "exported", "merged_from_network", "onnx_from_network"]

_HOME = {
    "compared": "mfnet_export.validation.parity",
    "exported": "mfnet_export.export",
    "merged_from_network": "mfnet_export.rewrites.steps",
    "onnx_from_network": "mfnet_export.graph.export",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
