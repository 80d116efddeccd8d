"""Checkpoint to merged network to ONNX file, checked for parity. Imports torch only when used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mfnet_export.export import export_checkpoint
    from mfnet_export.graph.export import onnx_from_network
    from mfnet_export.options import ExportOptions
    from mfnet_export.rewrites.steps import merge
    from mfnet_export.validation.parity import compare

__all__ = ["ExportOptions", "compare", "export_checkpoint", "merge", "onnx_from_network"]

_MODULES = {
    "ExportOptions": "mfnet_export.options",
    "compare": "mfnet_export.validation.parity",
    "export_checkpoint": "mfnet_export.export",
    "merge": "mfnet_export.rewrites.steps",
    "onnx_from_network": "mfnet_export.graph.export",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
