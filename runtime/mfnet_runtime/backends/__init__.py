"""The table of backends. A backend is imported only when asked for."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mfnet_runtime.backends.base import Backend, TensorSpec
from mfnet_runtime.errors import ModelError, UsageError, missing_package

__all__ = ["BACKENDS", "Backend", "TensorSpec", "backend_from_file"]

BACKENDS = {
    "openvino": "mfnet_runtime.backends.ov:OpenVinoBackend",
    "onnxruntime": "mfnet_runtime.backends.ort:OrtBackend",
}
# Which backends run a suffix, the fastest first; `auto` takes the first that is installed.
SUFFIXES = {".onnx": ("openvino", "onnxruntime")}


def backend_from_file(path: Path, name: str = "auto", **options: Any) -> Backend:
    """The backend that runs a model file; no device is touched before it is entered.

    Args:
        path: The model.
        name: One of `BACKENDS`, or `auto` for the fastest that is installed and runs such a file.
        options: Passed on: `threads` (0: physical cores), `precision` (what floats run in: `fp32`,
            `bf16`; None: as in the file) and `batch` (windows a call that it is to be fastest for).

    Raises:
        UsageError: the file is missing, no backend has that name, it is not installed, or it
            cannot do what the options ask.
        ModelError: no backend runs such a file, or the file is refused.
    """
    if not path.is_file():
        raise UsageError(f"{path}: no such model file")
    if name == "auto":
        if path.suffix.lower() not in SUFFIXES:
            raise ModelError(f"{path}: {_why_not(path)}")
        able = SUFFIXES[path.suffix.lower()]
        name = next((engine for engine in able if find_spec(engine)), able[-1])
    if name not in BACKENDS:
        raise UsageError(f"no backend named {name!r}; there are {', '.join(BACKENDS)}")
    module, attribute = BACKENDS[name].split(":")
    try:
        backend: Backend = getattr(import_module(module), attribute)(path, **options)
    except ModuleNotFoundError as fault:
        remedy = missing_package(fault.name)
        if remedy is None:
            raise
        raise UsageError(f"backend {name} {remedy}") from fault
    return backend


def _why_not(path: Path) -> str:
    if path.suffix.lower() in (".pt", ".pth"):
        return f"is a PyTorch checkpoint; export it first: mfnet-export --ckpt {path.name}"
    return f"not a model this runtime runs; expected one of {', '.join(SUFFIXES)}"
