"""The lean runtime: numpy, rasterio, click and one engine; it does not need PyTorch.

import mfnet_runtime as mf

with mf.load("best.onnx") as model:
    classes = model.predict(image, dsm)  # arrays (3, row, column) and (row, column)
    model.segment("ortho.tif", dsm="dsm.tif", out="maps/ortho.tif")  # files
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    __version__: str
    from mfnet_runtime.backends import backend_from_file
    from mfnet_runtime.contract import Contract
    from mfnet_runtime.errors import (
        MFNetError,
        ModelError,
        ResourceError,
        SceneError,
        UsageError,
    )
    from mfnet_runtime.run.model import Model, load
    from mfnet_runtime.run.options import VectorOptions
    from mfnet_runtime.scene.discovery import scenes_from
    from mfnet_runtime.scene.options import ReadOptions
    from mfnet_runtime.scene.reader import SceneReader
    from mfnet_runtime.tiling.pipeline import SegmentOptions, segment_scene

# From 1.29 on ONNX Runtime reports names and hashes of models to its maker, from its import on.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__all__ = [
    "Contract",
    "MFNetError",
    "Model",
    "ModelError",
    "ReadOptions",
    "ResourceError",
    "SceneError",
    "SceneReader",
    "SegmentOptions",
    "UsageError",
    "VectorOptions",
    "__version__",
    "backend_from_file",
    "load",
    "scenes_from",
    "segment_scene",
]
_HOMES = {
    "Contract": "contract",
    "MFNetError": "errors",
    "Model": "run.model",
    "ModelError": "errors",
    "ReadOptions": "scene.options",
    "ResourceError": "errors",
    "SceneError": "errors",
    "SceneReader": "scene.reader",
    "SegmentOptions": "tiling.options",
    "UsageError": "errors",
    "VectorOptions": "run.options",
    "backend_from_file": "backends",
    "load": "run.model",
    "scenes_from": "scene.discovery",
    "segment_scene": "tiling.pipeline",
}
__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    """Import on use, so that a command's --help needs neither rasterio nor an engine."""
    if name == "__version__":
        return import_module(f"{__name__}.version").installed_version("mfnet")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
