"""The child process of a latency run: one engine, told by lines of JSON what to run.

    python -m mfnet_bench.latency.worker        # the first line says what to load

Each line read is answered by one. An engine alone in its process has its own thread pool and its
own memory, and none pays for what another imports: nothing of torch is loaded for a model file.
Knows neither the other engines nor what is made of the times. Between two requests it waits in a
read, so an idle engine takes no processor time.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from mfnet_runtime.backends.base import Feed
from mfnet_runtime.errors import MFNetError

Facts = dict[str, Any]
Infer = Callable[[Feed], Any]


def infer_from_spec(spec: Facts) -> tuple[Infer, Facts]:
    """Load what a spec names: the call that runs a feed and returns logits, and facts about it.

    Raises:
        MFNetError: the engine refuses the file or an option.
    """
    path, threads = Path(spec["path"]), int(spec["threads"])
    if spec["kind"] == "file":
        from mfnet_runtime.backends import backend_from_file

        options = {"threads": threads, "precision": spec["precision"], "batch": spec["batch"]}
        backend = backend_from_file(path, spec["backend"], **options).__enter__()
        facts = {"device": backend.device, "precision": backend.precision}
        return lambda feed: backend.infer(feed)["logits"], facts
    import torch

    from mfnet.checkpoints.checkpoint import load_checkpoint, network_from_checkpoint
    from mfnet.model.torch_backend import device_name
    from mfnet_bench.latency.published_network import PublishedMFNet

    torch.set_num_threads(threads)
    network: Any = network_from_checkpoint(load_checkpoint(path))
    if spec["kind"] != "mfnet":
        network = PublishedMFNet(network).eval()
    run = torch.compile(network) if spec["kind"] == "compiled" else network

    def infer(feed: Feed) -> Any:
        with torch.inference_mode():
            return run(torch.from_numpy(feed["image"]), torch.from_numpy(feed["dsm"])).numpy()

    device = f"{device_name(torch.device('cpu'))}, PyTorch {torch.__version__}"
    return infer, {"device": device, "precision": "fp32"}


class ModelEngine:
    """A network at one batch, its sample windows, and the requests it answers."""

    def __init__(self, spec: Facts) -> None:
        self._batch = int(spec["batch"])
        with np.load(spec["windows"]) as arrays:
            self._image, self._dsm = arrays["image"], arrays["dsm"]
        start = time.perf_counter()
        self._infer, self.facts = infer_from_spec(spec)
        if spec["kind"] == "compiled":
            self._infer(self._feed(0))  # the first call compiles
        self.facts["load_s"] = time.perf_counter() - start

    def logits(self, out: str) -> Facts:
        """Run all sample windows, which also warms up; keep the logits."""
        count = len(self._image)
        parts = []
        for start in range(0, count, self._batch):
            logits = self._infer(self._feed(start))
            parts.append(np.array(logits[: count - start]))  # a copy: valid until the next
        np.save(out, np.concatenate(parts))
        return {"peak_rss_mb": peak_rss_mb()}

    def run(self, calls: int) -> Facts:
        """Milliseconds a window of each of several calls."""
        feed = self._feed(0)
        times = []
        for _ in range(calls):
            start = time.perf_counter()
            self._infer(feed)
            times.append((time.perf_counter() - start) * 1000 / self._batch)
        return {"ms": times}

    def _feed(self, start: int) -> Feed:
        index = np.arange(start, start + self._batch) % len(self._image)
        return {"image": self._image[index], "dsm": self._dsm[index]}


def peak_rss_mb() -> float | None:
    """The most memory this process has held, in MB; None where the system does not say."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        return None
    kib = next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
    return int(kib) * 1024 / 1e6


def engine_from_spec(spec: Facts) -> Any:
    """The engine whose methods are the requests: a network, or products of matrices.

    Those `on device` keep their data there and are timed by it.
    """
    if spec["kind"] == "gemm":
        from mfnet_bench.latency.gemm import GemmEngine

        return GemmEngine(spec)
    if spec["kind"] == "torch on device":
        from mfnet_bench.gpu.torch_engine import TorchEngine

        return TorchEngine(spec)
    if spec["kind"] == "products on device":
        from mfnet_bench.gpu.torch_engine import ProductEngine

        return ProductEngine(spec)
    return ModelEngine(spec)


def serve() -> None:
    """Answer requests until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides, and closes the pipe
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints is no answer
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
