"""The child process of a latency run: one engine that answers requests, one line of JSON each.

    python -m mfnet_bench.latency.worker        # the first line says what to load

An engine alone in its process has its own threads and memory; nothing of torch is imported for a
model file. Between two requests the process waits in a read and takes no processor time.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import numpy as np

from mfnet_runtime.backends.base import Backend, Feed
from mfnet_runtime.errors import MFNetError

Facts = dict[str, Any]


class ModelEngine:
    """A network at one batch, on the sample windows. Its public methods are the requests."""

    def __init__(self, spec: Facts) -> None:
        self._batch = int(spec["batch"])
        with np.load(spec["windows"]) as arrays:
            self._windows = {name: arrays[name] for name in ("image", "dsm")}
        start = time.perf_counter()
        self._backend: Any = open_backend(spec).__enter__()
        if spec["kind"] == "compiled":
            self._backend.infer(self._feed(0))  # the first call compiles
        self.facts: Facts = {
            "device": self._backend.device,
            "precision": self._backend.precision,
            "load_s": time.perf_counter() - start,
        }

    def logits(self, out: str) -> Facts:
        """Run all sample windows, which warms up too, and keep the logits as float32."""
        count = len(self._windows["image"])
        parts = []
        for start in range(0, count, self._batch):
            logits = self._backend.infer(self._feed(start))["logits"]
            parts.append(logits[: count - start].astype(np.float32))  # a copy
        np.save(out, np.concatenate(parts))
        return {"peak_rss_mb": peak_rss_mb()}

    def run(self, calls: int) -> Facts:
        """Return the milliseconds per window of each of several calls.

        Where the backend can time itself with its data on the GPU, that is what counts.
        """
        feed = self._feed(0)
        if hasattr(self._backend, "device_ms"):
            times = self._backend.device_ms(feed, calls + 1)[1:]  # the first one prepares
        else:
            times = []
            for _ in range(calls):
                start = time.perf_counter()
                self._backend.infer(feed)
                times.append((time.perf_counter() - start) * 1000)
        return {"ms": [ms / self._batch for ms in times]}

    def _feed(self, start: int) -> Feed:
        index = np.arange(start, start + self._batch) % len(self._windows["image"])
        return {
            spec.name: self._windows[spec.name][index].astype(spec.dtype, copy=False)
            for spec in self._backend.inputs
        }


def open_backend(spec: Facts) -> Backend:
    """Load what a spec names.

    Raises:
        MFNetError: The engine refuses the file or an option.
    """
    path, threads = Path(spec["path"]), int(spec["threads"])
    if spec["kind"] == "file":
        from mfnet_runtime.backends import backend_from_file

        precision = None if spec["device"] == "cuda" else spec["precision"]
        options = {"threads": threads, "precision": precision, "batch": spec["batch"]}
        if path.suffix == ".plan":
            options["eager"] = True  # or the first rounds would time general kernels
        return backend_from_file(path, spec["backend"], spec["device"], **options)
    import torch

    from mfnet_bench.latency.baseline import open_baseline

    torch.set_num_threads(threads)
    return open_baseline(path, spec["kind"], spec["device"])


def peak_rss_mb() -> float | None:
    """Return the most memory this process has held, in MB; None where the system does not say."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        return None
    kib = next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
    return int(kib) * 1024 / 1e6


def engine_from_spec(spec: Facts) -> Any:
    """Make the engine whose methods are the requests: a network, or matrix products."""
    if spec["kind"] == "gemm":
        from mfnet_bench.latency.gemm import GemmEngine

        return GemmEngine(spec)
    return ModelEngine(spec)


def serve() -> None:
    """Answer requests until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides, and closes the pipe
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints is no answer
    engine: Any = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if engine is None:
                engine = engine_from_spec(request)
                answer = engine.facts
            else:
                answer = getattr(engine, request.pop("do"))(**request)
        except (MFNetError, ModuleNotFoundError) as fault:
            answer = {"refused": str(fault)}
        except Exception as fault:  # whatever an engine raises becomes the reason in its row
            traceback.print_exc()
            answer = {"refused": f"{type(fault).__name__}: {fault}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    serve()
