"""Errors that the user can fix, each with the exit code of the command.

Every message names the file, what was found, what was expected and what to do. Any other exception
is a bug.
"""

from __future__ import annotations

import re

# What engines and libraries say when an allocation fails; few raise a MemoryError.
NO_MEMORY = re.compile(
    r"failed to allocate|failed to map segment|can't alloc|cannot allocate|bad_alloc"
    r"|out ?of ?memory|insufficient mem|could not (be )?allocate|can't start new thread",
    re.IGNORECASE,
)

# Extra that installs each optional package.
EXTRAS = {
    "distributed": "cluster",
    "torch": "train",
    "torchvision": "train",
    "segment_anything": "train",
    "onnx": "interfaces",  # the smallest one
    "onnx_ir": "export",
    "onnxscript": "export",
    "matplotlib": "bench",
    "botocore": "network",
    "urllib3": "network",
    "openvino": "openvino",
    "pycuda": "gpu",
    "pyogrio": "vector",
    "safetensors": "safetensors",
    "shapely": "vector",
    "tensorrt": "gpu",
    "tensorrt_rtx": "rtx",
    "fastapi": "serve",
    "prometheus_client": "serve",
    "uvicorn": "serve",
}


def one_line(text: str) -> str:
    """Remove line breaks and control characters, which a library or a file name may contain."""
    return "".join(char if char.isprintable() else "?" for char in " ".join(text.split()))


def missing_package(name: str | None, extra: str | None = None) -> str | None:
    """Return how to install a missing optional package, by itself or with an extra that has more.

    None for any other package.
    """
    package = (name or "").partition(".")[0]
    if package not in EXTRAS:
        return None
    return f"needs {package}; install it with: pip install 'mfnet[{extra or EXTRAS[package]}]'"


class MFNetError(Exception):
    """Base of all errors caused by input or environment; shared by all four packages."""

    exit_code = 2


class UsageError(MFNetError):
    """The options are wrong, or a file or package that they need is missing (exit 2)."""


class ModelError(MFNetError):
    """A checkpoint or model file is damaged, unsafe or incompatible (exit 3)."""

    exit_code = 3


class SceneError(MFNetError):
    """A scene cannot be read or does not fit the model; other scenes still run (exit 4)."""

    exit_code = 4


class ResourceError(MFNetError):
    """The disk is full, a folder is read-only, or memory ran out (exit 5)."""

    exit_code = 5


class DeviceMemoryError(ResourceError):
    """The GPU, or page-locked host memory, is full; the device stays usable (exit 5)."""


class DeviceLostError(ResourceError):
    """A kernel crashed or the GPU failed: CUDA takes no more calls in this process (exit 5)."""
