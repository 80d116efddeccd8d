"""Faults of CUDA as ours: what the user can mend, what ends the GPU's use, what is a bug.

PyCUDA keeps no error codes, only CUDA's sentences. Knows no device and makes no CUDA call.
"""

from __future__ import annotations

import ctypes

from mfnet_runtime.errors import DeviceLostError, DeviceMemoryError, UsageError

OLDEST_DRIVER = (12, 2)  # the CUDA version of driver 535

# After these sentences the device goes on working: a call of ours was wrong.
BUGS = (
    "invalid argument",
    "invalid device context",
    "invalid resource handle",
    "named symbol not found",
    "operation not supported",
    "too many resources requested for launch",
)
# After these too: the driver does not take our kernels.
REFUSALS = (
    "a PTX JIT compilation failed",
    "device kernel image is invalid",
    "no kernel image is available",
    "PTX JIT compil",  # ... er library not found, ... ation was disabled
    "the provided PTX was compiled with an unsupported toolchain",
)


def fault_from_error(error: Exception, out_of_memory: bool, where: str) -> Exception:
    """What to raise for an error of PyCUDA.

    Args:
        error: `pycuda.driver.Error` or a subclass.
        out_of_memory: Whether it is PyCUDA's MemoryError.
        where: The device and what was being done, as `NVIDIA H200: copying to the GPU`.

    Returns:
        `DeviceMemoryError`; `UsageError` where the driver refuses the kernels; the error itself
        where a call of ours was wrong; else `DeviceLostError`, also for sentences never heard of:
        to call on could hang or abort the process.
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
    """What to raise where PyCUDA cannot be loaded or finds no GPU."""
    return UsageError(
        f"no usable GPU ({sentence_of(error)}); needs an NVIDIA GPU and driver 535 or newer"
    )


def sentence_of(error: Exception) -> str:
    """CUDA's own words, without the name of the call that failed."""
    text = " ".join(str(error).split())
    return text.partition(" failed: ")[2] or text


def version_text(number: int) -> str:
    """CUDA's version number as people write it: 12020 -> 12.2."""
    return f"{number // 1000}.{number % 1000 // 10}"


def never_destroyed(*things: object) -> None:
    """Keep things of a lost device from being destroyed, even when Python ends.

    Their destructors would call CUDA; failing there, PyCUDA's can abort the process.
    """
    for thing in things:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))
