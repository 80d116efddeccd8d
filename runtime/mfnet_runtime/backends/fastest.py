"""The fastest of several engines for a file on this machine, found by a short measurement.

No engine is the fastest everywhere: with INT8 it depends on the processor's instructions. The
result is remembered in the user's cache for the file, machine, versions and settings.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import numpy as np

from mfnet_runtime.backends import backend_from_file
from mfnet_runtime.errors import ModelError, UsageError
from mfnet_runtime.files import FileDigest, replace_text, user_cache_folder
from mfnet_runtime.version import installed_version

logger = logging.getLogger(__name__)

WARM_UP, CALLS = 1, 3  # batches before, and in, a measurement
KEPT = 200  # results in the file, newest last
INT8, FP32 = ".int8.onnx", ".onnx"

Milliseconds = dict[str, float]  # a window, by engine; fastest first


def measure_engines(
    path: Path, engines: Sequence[str], threads: int = 0, precision: str | None = None
) -> Milliseconds:
    """Return the time of a window in each engine, fastest first, measured or remembered.

    Engines that refuse the file or the precision are left out. An INT8 file that is slower than
    the FP32 file beside it is reported as a warning.

    Args:
        path: The model, for a CPU.
        engines: Names of installed backends.
        threads: CPU threads; 0 takes the physical cores.
        precision: Requested precision of floating-point operations.
    """
    found = _remembered_or_measured(path, engines, threads, precision)
    plain = path.with_name(path.name.removesuffix(INT8) + FP32)
    if found and path.name.endswith(INT8) and plain.is_file():
        other = _remembered_or_measured(plain, engines, threads, precision)
        if other and min(other.values()) < min(found.values()):
            logger.warning(
                "%s takes %.3g ms a window on this processor, %s in FP32 only %.3g: run that file",
                path.name,
                min(found.values()),
                plain.name,
                min(other.values()),
            )
    return found


def _remembered_or_measured(
    path: Path, engines: Sequence[str], threads: int, precision: str | None
) -> Milliseconds:
    file = user_cache_folder() / "engines.json"
    try:
        known = {str(key): dict(times) for key, times in json.loads(file.read_bytes()).items()}
    except (OSError, ValueError, AttributeError, TypeError):
        known = {}  # no file yet, or damaged
    key = _key(path, engines, threads, precision)
    if key in known:
        return known[key]
    logger.info("timing %s on this machine: %s", path.name, ", ".join(engines))
    times = {name: _time(path, name, threads, precision) for name in engines}
    found = {name: value for name, value in times.items() if value is not None}
    found = dict(sorted(found.items(), key=lambda entry: entry[1]))
    known[key] = found
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        replace_text(file, json.dumps(dict(list(known.items())[-KEPT:])))
    except OSError as fault:
        logger.info("the result is not remembered: %s: %s", file, fault.strerror)
    return found


def _time(path: Path, name: str, threads: int, precision: str | None) -> float | None:
    """Return milliseconds a window, or None if the engine refuses the file."""
    try:
        with backend_from_file(path, name, threads=threads, precision=precision) as backend:
            rng, count = np.random.default_rng(0), backend.batches.best
            feed = {
                spec.name: rng.random((count, *spec.shape[1:]), np.float32).astype(spec.dtype)
                for spec in backend.inputs
            }
            taken = []
            for _ in range(WARM_UP + CALLS):
                started = time.perf_counter()
                backend.infer(feed)
                taken.append(time.perf_counter() - started)
    except (ModelError, UsageError) as fault:
        logger.info("%s: %s", name, fault)
        return None
    return round(1000 * median(taken[WARM_UP:]) / count, 4)


def _key(path: Path, engines: Sequence[str], threads: int, precision: str | None) -> str:
    """Return a digest of everything that decides the result."""
    versions = [installed_version(name) for name in engines]
    facts = [FileDigest.of(path).sha256, _processor(), os.cpu_count(), threads, precision]
    return hashlib.sha256(json.dumps([*facts, *engines, *versions]).encode()).hexdigest()


def _processor() -> str:
    """Return the processor's name and, on Linux, its instructions: homes may be shared."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = ("model name", "flags", "Features")
    return "\n".join(sorted({line for line in lines if line.startswith(names)}))
