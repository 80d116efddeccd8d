"""PyTorch on a GPU as the baselines: eager FP32, autocast FP16, torch.compile FP16; and products.

Runs in a child of its own (`mfnet_bench.latency.worker`), in the Python that has torch. Inputs lie
on the device, so no copy is timed; CUDA events take the times. Without a GPU, for a dry run, the
same code runs on the CPU with its clock.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mfnet.checkpoints.checkpoint import load_checkpoint, network_from_checkpoint
from mfnet.model.torch_backend import device_name
from mfnet_bench.latency.published_network import PublishedMFNet

WARM_UP = 3  # calls of a batch before the first that counts

Facts = dict[str, Any]
Call = Callable[[Tensor, Tensor], Tensor]


class TorchEngine:
    """The network in its published order of operations, in one of `speed.MODES`."""

    def __init__(self, spec: Facts) -> None:
        self._device = torch.device(spec["device"])
        network: Any = network_from_checkpoint(load_checkpoint(Path(spec["path"])))
        network = PublishedMFNet(network).eval().to(self._device)
        self._half = spec["mode"] == "compiled fp16"
        self._call = self._called(network, spec["mode"])
        with np.load(spec["windows"]) as arrays:
            self._image, self._dsm = (
                torch.from_numpy(arrays[name]).to(self._device) for name in ("image", "dsm")
            )
        self._warm: set[int] = set()
        self.facts = {"device": f"{device_name(self._device)}, PyTorch {torch.__version__}"}

    def _called(self, network: Any, mode: str) -> Call:
        if mode == "autocast fp16":

            def call(image: Tensor, dsm: Tensor) -> Tensor:
                with torch.autocast(self._device.type, torch.float16):
                    logits: Tensor = network(image, dsm)
                return logits

            return call
        if self._half:
            compiled: Call = torch.compile(network.half(), dynamic=False)
            return compiled
        eager: Call = network
        return eager

    def logits(self, out: str, batch: int) -> Facts:
        """Logits of all sample windows, as an npy of float32."""
        parts = []
        with torch.inference_mode():
            for start in range(0, len(self._image), batch):
                feed = self._feed(batch, start)
                count = min(batch, len(self._image) - start)
                parts.append(self._call(*feed)[:count].float().cpu().numpy())
        np.save(out, np.concatenate(parts))
        return {}

    def run(self, batch: int, calls: int) -> Facts:
        """Milliseconds a window of each of several calls."""
        feed = self._feed(batch)
        with torch.inference_mode():
            if batch not in self._warm:
                for _ in range(WARM_UP):
                    self._call(*feed)
                self._warm.add(batch)
            times = timed(lambda: self._call(*feed), calls, self._device)
        return {"ms": [ms / batch for ms in times]}

    def _feed(self, batch: int, start: int = 0) -> tuple[Tensor, Tensor]:
        index = torch.arange(start, start + batch, device=self._device) % len(self._image)
        image, dsm = self._image[index], self._dsm[index]
        return (image.half(), dsm.half()) if self._half else (image, dsm)


class ProductEngine:
    """FP16 products of matrices, random ones: the rate that the floor is told from."""

    def __init__(self, spec: Facts) -> None:
        self._device = torch.device(spec["device"])
        self.facts = {"device": device_name(self._device)}

    def measure(self, shape: list[int], calls: int) -> Facts:
        """GFLOP/s of the median product of (m, k) and (k, n)."""
        m, k, n = shape
        kind = torch.float16 if self._device.type == "cuda" else torch.float32
        left, right = (
            torch.randn(size, device=self._device, dtype=kind) for size in ((m, k), (k, n))
        )
        timed(lambda: left @ right, WARM_UP, self._device)
        times = timed(lambda: left @ right, calls, self._device)
        return {"gflop_per_s": 2e-6 * m * k * n / float(np.median(times))}


def timed(call: Callable[[], Any], calls: int, device: torch.device) -> list[float]:
    """Milliseconds of each of several calls, queued one behind the other."""
    if device.type != "cuda":
        times = []
        for _ in range(calls):
            start = time.perf_counter()
            call()
            times.append((time.perf_counter() - start) * 1000)
        return times
    events: list[Any] = [torch.cuda.Event(enable_timing=True) for _ in range(calls + 1)]  # type: ignore[no-untyped-call]
    events[0].record()
    for event in events[1:]:
        call()
        event.record()
    torch.cuda.synchronize()
    return [before.elapsed_time(after) for before, after in pairwise(events)]
