"""The lean runtime: numpy, rasterio, click and one engine. It has never heard of PyTorch."""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mfnet_runtime.backends import backend_from_file
    from mfnet_runtime.contract import Contract
    from mfnet_runtime.scene.discovery import scenes_from
    from mfnet_runtime.scene.options import ReadOptions
    from mfnet_runtime.scene.reader import SceneReader
    from mfnet_runtime.tiling.pipeline import SegmentOptions, segment_scene

# From 1.29 on ONNX Runtime reports names and hashes of models to its maker, from its import on.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__all__ = [
    "Contract",
    "ReadOptions",
    "SceneReader",
    "SegmentOptions",
    "backend_from_file",
    "scenes_from",
    "segment_scene",
]
_HOMES = {
    "Contract": "contract",
    "ReadOptions": "scene.options",
    "SceneReader": "scene.reader",
    "SegmentOptions": "tiling.pipeline",
    "backend_from_file": "backends",
    "scenes_from": "scene.discovery",
    "segment_scene": "tiling.pipeline",
}


def __getattr__(name: str) -> Any:
    """Import on use, so that a command's --help needs neither rasterio nor an engine."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
