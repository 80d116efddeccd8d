"""Translate faults of CUDA: those the user can fix, those that end the GPU's use, and bugs.

PyCUDA keeps no error codes, only CUDA's sentences.
"""

from __future__ import annotations

import ctypes

from mfnet_runtime.errors import DeviceLostError, DeviceMemoryError, UsageError

OLDEST_DRIVER = (12, 2)  # the CUDA version of driver 535

# After these the device stays usable: one of our calls was wrong.
BUGS = (
    "invalid argument",
    "invalid device context",
    "invalid resource handle",
    "named symbol not found",
    "operation not supported",
    "too many resources requested for launch",
)
# After these as well: the driver does not accept our kernels.
REFUSALS = (
    "a PTX JIT compilation failed",
    "device kernel image is invalid",
    "no kernel image is available",
    "PTX JIT compil",  # ... er library not found, ... ation was disabled
    "the provided PTX was compiled with an unsupported toolchain",
)


def fault_from_error(error: Exception, out_of_memory: bool, where: str) -> Exception:
    """Return what to raise for an error of PyCUDA.

    Args:
        error: `pycuda.driver.Error` or a subclass.
        out_of_memory: True if it is PyCUDA's MemoryError.
        where: The device and the action: `NVIDIA H200: copying to the GPU`.

    Returns:
        `DeviceMemoryError`; `UsageError` if the driver rejects the kernels; the error itself if one
        of our calls was wrong; else, for unknown sentences too, `DeviceLostError`: further calls
        could hang or abort the process.
    """
    sentence = sentence_of(error)
    if out_of_memory:
        return DeviceMemoryError(
            f"{where}: out of memory; use a smaller --batch, or end other programs on the GPU"
        )
    if sentence.startswith(REFUSALS):
        return UsageError(f"{where}: the driver refuses ({sentence}); update it to 535 or newer")
    if sentence.startswith(BUGS):
        return error
    return DeviceLostError(
        f"{where}: the GPU stopped working ({sentence}) and takes no more calls from this process; "
        "look for Xid in `dmesg`, then run again"
    )


def fault_from_start(error: Exception) -> UsageError:
    """Return what to raise when PyCUDA cannot be loaded or finds no GPU."""
    return UsageError(
        f"no usable GPU ({sentence_of(error)}); needs an NVIDIA GPU and driver 535 or newer"
    )


def sentence_of(error: Exception) -> str:
    """CUDA's message without the name of the failed call."""
    text = " ".join(str(error).split())
    return text.partition(" failed: ")[2] or text


def version_text(number: int) -> str:
    """Format CUDA's version number: 12020 becomes 12.2."""
    return f"{number // 1000}.{number % 1000 // 10}"


def never_destroyed(*things: object) -> None:
    """Keep objects of a lost device from being destroyed, even when Python exits.

    Their destructors would call CUDA; when that fails, PyCUDA's can abort the process.
    """
    for thing in things:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))
