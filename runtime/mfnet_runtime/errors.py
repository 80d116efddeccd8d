"""Faults the user can mend, and the exit code each one ends a command with.

Every message names the file, what was found, what was expected and what to do. Anything that is
not an `MFNetError` is a bug of ours.
"""

from __future__ import annotations

import re

# What engines and libraries say when an allocation fails; few raise a MemoryError.
NO_MEMORY = re.compile(
    r"failed to allocate|failed to map segment|can't alloc|cannot allocate|bad_alloc"
    r"|out ?of ?memory|insufficient mem|could not (be )?allocate|can't start new thread",
    re.IGNORECASE,
)

# What a missing package is told to be installed with.
EXTRAS = {
    "torch": "train",
    "torchvision": "train",
    "segment_anything": "train",
    "onnx": "export",
    "onnx_ir": "export",
    "onnxscript": "export",
    "matplotlib": "bench",
    "openvino": "openvino",
    "pycuda": "gpu",
    "pyogrio": "vector",
    "tensorrt": "gpu",
}


def missing_package(name: str | None) -> str | None:
    """One line that says how to install a package we need; None for one we know nothing of."""
    package = (name or "").partition(".")[0]
    if package not in EXTRAS:
        return None
    return f"needs {package}; install it with: pip install 'mfnet[{EXTRAS[package]}]'"


class MFNetError(Exception):
    """Root of every fault that is the input's and not ours; shared by all four packages."""

    exit_code = 2


class UsageError(MFNetError):
    """The command was asked for something it cannot mean: bad options, missing folders."""


class ModelError(MFNetError):
    """A checkpoint or model file is damaged, untrusted, or promises something else (exit 3)."""

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
