"""What a check runs: plans on the GPU, or in a dry run the FP32 file on the CPU in their place."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from mfnet_bench.gpu.parity import recorded
from mfnet_bench.gpu.request import CheckRequest, NetworkFiles
from mfnet_bench.gpu.speed import RunPlan
from mfnet_export.tensorrt.build import plan_from_onnx
from mfnet_export.tensorrt.machine import NoBuilderError, plan_machine
from mfnet_export.tensorrt.options import PlanOptions
from mfnet_runtime.backends import backend_from_file
from mfnet_runtime.backends.base import Backend
from mfnet_runtime.backends.onnxruntime_cuda import has_cuda_provider
from mfnet_runtime.backends.tensorrt.plan_file import Profile, facts_of_plan
from mfnet_runtime.cuda.device import CudaDevice
from mfnet_runtime.errors import ModelError
from mfnet_runtime.files import sha256_from_file

WAYS = ("gpu", "cpu")  # where windows of a plan are cut and blended


class NotHereError(Exception):
    """A step needs what this machine lacks; its text says what."""


@dataclass(frozen=True)
class Engine:
    """An entered backend, and what the report calls it."""

    name: str
    backend: Backend
    ways: Sequence[str]  # in which it can be fed from a scene


def why_no_gpu() -> str | None:
    """What is missing to build and run plans; None where nothing is."""
    try:
        with plan_machine():
            return None
    except NoBuilderError as fault:
        return str(fault)


@contextmanager
def gpu_held() -> Iterator[None]:
    """Keep the GPU's context while engines come and go: TensorRT lives in it."""
    if why_no_gpu():
        yield
        return
    with CudaDevice():
        yield


def gpu_facts() -> dict[str, Any]:
    """The GPU and what drives it; empty where plans cannot be built."""
    try:
        with plan_machine() as machine:
            return {
                "gpu": machine.device.name,
                "compute_capability": ".".join(map(str, machine.device.compute_capability)),
                "driver": machine.device.driver,
                "cuda": machine.device.cuda,
                "tensorrt": machine.trt.__version__,
            }
    except NoBuilderError:
        return {}


@contextmanager
def opened(
    files: NetworkFiles, precision: str, request: CheckRequest, batch: int | None = None
) -> Iterator[Engine]:
    """A network's engine, entered.

    Args:
        files: Of the network.
        precision: fp32 or fp16.
        request: Whether it is a dry run.
        batch: Windows a call it is to have room for; None: the largest of the request.

    Raises:
        NotHereError: there is no plan and none can be built here.
        ModelError: the plan is refused.
    """
    with backend_of(files, precision, request, batch) as backend:
        if request.dry:
            yield Engine("ONNX Runtime fp32", backend, ("cpu",))
        else:
            yield Engine(f"TensorRT {precision}", backend, WAYS)


def backend_of(
    files: NetworkFiles, precision: str, request: CheckRequest, batch: int | None = None
) -> Backend:
    """What `opened` enters."""
    room = batch or request.largest_batch
    if request.dry:
        return backend_from_file(files.onnx, "onnxruntime", batch=room)
    plan = files.plan(precision)
    if not plan.is_file():
        raise NotHereError(why_no_gpu() or f"{plan.name} was not built; run the step `plans`")
    return backend_from_file(plan, "tensorrt", batch=room)


@contextmanager
def rivals(files: NetworkFiles, request: CheckRequest) -> Iterator[dict[str, Engine]]:
    """What else of ours runs the FP16 file on the GPU, by its name; copies are part of its time."""
    if request.dry or not has_cuda_provider():
        yield {}
        return
    name = "ONNX Runtime CUDA fp16, with copies"
    with backend_from_file(files.fp16, "onnxruntime", device="cuda") as backend:
        yield {name: Engine(name, backend, ("cpu",))}


def run_of(engine: Engine, files: NetworkFiles) -> RunPlan:
    """Milliseconds of each of several calls with the network's windows.

    Of a plan, on the device alone: the data lie there, CUDA events take the time.
    """
    windows, _ = recorded(files.windows)
    backend: Any = engine.backend

    def run(batch: int, calls: int) -> Sequence[float]:
        feed = windows.feed(np.arange(batch) % len(windows), backend)
        if hasattr(backend, "device_ms"):
            found: Sequence[float] = backend.device_ms(feed, calls + 1)
            return found[1:]  # the first prepares for the batch
        times = []
        for _ in range(calls):
            start = time.perf_counter()
            backend.infer(feed)
            times.append((time.perf_counter() - start) * 1000)
        return times

    return run


def plan_is_there(
    files: NetworkFiles, precision: str, request: CheckRequest, machine: Mapping[str, Any]
) -> bool:
    """Whether a plan of the file, the batches and the machine was built before.

    Args:
        files: Of the network.
        precision: fp32 or fp16.
        request: Batches.
        machine: `gpu_facts` are among it.
    """
    try:
        facts = facts_of_plan(files.plan(precision))
    except ModelError:
        return False
    return (
        facts.onnx_sha256 == sha256_from_file(files.source(precision))
        and facts.profile == _profile(request)
        and (facts.gpu, facts.tensorrt) == (machine["gpu"], machine["tensorrt"])
    )


def build_plan(
    files: NetworkFiles, precision: str, request: CheckRequest, tell: Callable[[str], None]
) -> dict[str, Any]:
    """Build the plan of a precision, best at the batch that PyTorch is compiled for.

    Returns:
        Seconds it took, layers and fused attentions.
    """
    options = PlanOptions(
        _profile(request),
        timing_cache=request.work / "timings.cache",
        own_kernels=not request.cublas,
    )
    report = plan_from_onnx(files.source(precision), files.plan(precision), options, tell)
    return {
        "s": round(report.seconds, 1),
        "layers": report.facts.layers,
        "fused attentions": report.facts.fused_attentions,
        "attentions": report.attentions,
    }


def _profile(request: CheckRequest) -> Profile:
    return Profile(1, request.best_batch, request.largest_batch)
