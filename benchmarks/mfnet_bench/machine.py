"""The machine and the library versions of a measurement."""

from __future__ import annotations

import os
import platform
from datetime import date
from pathlib import Path
from typing import Any

from mfnet_runtime.version import UNKNOWN, installed_version

# Instructions that decide how fast matrices are multiplied, as Linux names them.
FLAGS = (
    "avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8",
    "asimddp", "sve", "i8mm", "bf16",
)  # fmt: skip
PACKAGES = ("mfnet", "numpy", "rasterio", "onnxruntime", "openvino", "torch")


def machine_facts() -> dict[str, Any]:
    """Return processor and flags, usable cores, system, date and installed versions."""
    flags = (_cpuinfo("flags") or _cpuinfo("Features")).split()  # x86, ARM
    return {
        "cpu": _cpuinfo("model name") or platform.processor() or platform.machine(),
        "cores": _cores(),
        "flags": " ".join(flag for flag in FLAGS if flag in flags),
        "system": f"{platform.system()} {platform.machine()}",
        "date": date.today().isoformat(),
        "python": platform.python_version(),
        **{name: found for name in PACKAGES if (found := installed_version(name)) != UNKNOWN},
    }


def _cpuinfo(name: str) -> str:
    """Return what Linux says of the first processor under a name; empty elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    found = (line.partition(":")[2].strip() for line in lines if line.startswith(name))
    return next(found, "")


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
