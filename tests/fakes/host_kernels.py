"""Compile kernels.cu for this machine, and run its kernels on host memory."""

from __future__ import annotations

import ctypes
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from shutil import which

import pytest

import mfnet_runtime.cuda

SOURCE = Path(mfnet_runtime.cuda.__path__[0]) / "kernels.cu"
# No fused multiply-add: one rounding per operation, as the source asks of CUDA.
FLAGS = ("-O2", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-x", "c++")


@cache
def compiled() -> ctypes.CDLL:
    """Compile the library once per session; skip the test if that is impossible."""
    compiler = which("g++")
    if compiler is None:
        pytest.skip("no g++ to compile the kernels for this machine with")
    probe = subprocess.run(
        [compiler, "-x", "c++", "-fsyntax-only", "-"], input="_Float16 x;", text=True
    )
    if probe.returncode:
        pytest.skip("g++ has no _Float16 here; needs version 12 or newer")
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "kernels.so"
        subprocess.run([compiler, *FLAGS, str(SOURCE), "-o", str(library)], check=True)
        return ctypes.CDLL(str(library))  # stays loaded once the file is gone


def run(name: str, args: bytes, threads: tuple[int, int, int], backwards: bool = False) -> None:
    """Run every thread of a kernel, the first or the last one first.

    Args:
        name: The name of the kernel.
        args: Its argument structure.
        threads: x, y, z; may be more than the kernel needs, as on a GPU.
        backwards: True to run the last thread first.
    """
    getattr(compiled(), name)(args, (ctypes.c_uint * 3)(*threads), ctypes.c_int(backwards))
