"""The table of backends. A backend is imported only when asked for."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from mfnet_runtime.backends.base import Backend, TensorSpec
from mfnet_runtime.errors import ModelError, UsageError

__all__ = ["BACKENDS", "Backend", "TensorSpec", "backend_from_file"]

BACKENDS = {"onnxruntime": "mfnet_runtime.backends.ort:OrtBackend"}
SUFFIXES = {".onnx": "onnxruntime"}  # which backend `auto` takes


def backend_from_file(path: Path, name: str = "auto", **options: Any) -> Backend:
    """The backend that runs a model file; no device is touched before it is entered.

    Args:
        path: The model.
        name: One of `BACKENDS`, or `auto` to choose by the file's suffix.
        options: Passed on, for example `threads`.

    Raises:
        UsageError: the file is missing, or no backend has that name.
        ModelError: no backend runs such a file, or the file is refused.
    """
    if not path.is_file():
        raise UsageError(f"{path}: no such model file")
    if name == "auto":
        if path.suffix.lower() not in SUFFIXES:
            raise ModelError(f"{path}: {_why_not(path)}")
        name = SUFFIXES[path.suffix.lower()]
    if name not in BACKENDS:
        raise UsageError(f"no backend named {name!r}; there are {', '.join(BACKENDS)}")
    module, attribute = BACKENDS[name].split(":")
    backend: Backend = getattr(import_module(module), attribute)(path, **options)
    return backend


def _why_not(path: Path) -> str:
    if path.suffix.lower() in (".pt", ".pth"):
        return f"is a PyTorch checkpoint; export it first: mfnet-export --ckpt {path.name}"
    return f"not a model this runtime runs; expected one of {', '.join(SUFFIXES)}"
