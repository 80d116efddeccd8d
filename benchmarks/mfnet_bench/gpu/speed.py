"""Times of a network on the device, in interleaved rounds: plans against PyTorch.

The plan runs in this process, PyTorch in children; while one runs, the others wait. Data lie on
the device, CUDA events take the times. Ratios are taken inside a round.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from math import ceil
from statistics import median
from typing import Any

import numpy as np

from mfnet_bench.gpu.request import CheckRequest, NetworkFiles
from mfnet_bench.latency.engines import compared_logits
from mfnet_bench.latency.peak_gemm import gemm_shapes
from mfnet_bench.latency.process import EngineProcess, EngineRefusedError
from mfnet_bench.latency.rounds import (
    DroppedError,
    Samples,
    Turn,
    interleaved,
    paired_ratio,
    percentile,
    pooled,
)

MODES = EAGER, AUTOCAST, COMPILED = ("eager fp32", "autocast fp16", "compiled fp16")  # PyTorch's
MAX_CALLS = 100  # of a turn
LARGE = (8192, 8192, 8192)  # the one product that is no network's

Cell = tuple[str, int]  # engine, batch
RunPlan = Callable[[int, int], Sequence[float]]  # batch, calls -> milliseconds of each call


@dataclass(frozen=True)
class TimedPlan:
    """An engine of this process."""

    run: RunPlan
    device: str
    agreement: float  # share of pixels of the class PyTorch gives in FP32


@dataclass(frozen=True, kw_only=True)
class SpeedRow:
    """One engine at one batch; what was not measured is None. Field order is the CSV's."""

    network: str
    engine: str
    batch: int
    device: str | None = None
    median_ms: float | None = None  # of a window
    p95_ms: float | None = None
    windows_per_s: float | None = None  # at the median
    ratio_eager: float | None = None  # times as fast as PyTorch eager FP32 at the same batch
    ratio_autocast: float | None = None
    ratio_compiled: float | None = None
    gflop: float | None = None  # of one window
    floor_ms: float | None = None  # of a window: its FLOP at the rate of the best product
    floor_share: float | None = None  # floor over median
    agreement: float | None = None  # share of pixels of the class PyTorch gives in FP32
    rounds: int = 0
    refused: str | None = None  # why there are no numbers

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)


def speed_of(
    files: NetworkFiles,
    facts: Mapping[str, Any],
    request: CheckRequest,
    plans: Mapping[str, TimedPlan],
    tell: Callable[[str], None],
) -> tuple[list[SpeedRow], dict[str, float]]:
    """Rows of one network, and GFLOP/s of the products by shape.

    Args:
        files: Of the network.
        facts: What was written when they were made.
        request: Batches, rounds and the Python with torch.
        plans: Engines of this process by name, as `TensorRT fp16`.
        tell: Told what is being done.
    """
    turns: dict[Cell, Turn] = {}
    refused: dict[Cell, str] = {}
    said: dict[str, dict[str, Any]] = {}
    with ExitStack() as stack:
        for mode in (EAGER, AUTOCAST, *(() if request.dry else (COMPILED,))):
            batches = (request.best_batch,) if mode == COMPILED else request.batches
            tell(f"{files.name}: loading PyTorch {mode}")
            try:
                process = stack.enter_context(_torch(files, mode, request))
                agreement = _agreement(process, files, batches[-1])
                said[mode] = {**process.facts, "agreement": agreement}
            except EngineRefusedError as fault:
                refused |= {(mode, batch): str(fault) for batch in batches}
                continue
            turns |= {
                (mode, batch): _torch_turn(process, batch, request.turn_s) for batch in batches
            }
        for name, plan in plans.items():
            said[name] = {"device": plan.device, "agreement": plan.agreement}
            turns |= {
                (name, batch): _plan_turn(plan.run, batch, request.turn_s)
                for batch in request.batches
            }
        tell(f"{files.name}: {request.rounds} rounds of {len(turns)} engines")
        samples = interleaved(turns, range(request.rounds))
        rates = _product_rates(facts["sizes"], request, stack)
    rows = [
        _row(files.name, cell, samples, facts, said.get(cell[0], {}), rates)
        for cell in turns
        if samples[cell]
    ]
    rows += [
        SpeedRow(network=files.name, engine=cell[0], batch=cell[1], refused=why)
        for cell, why in refused.items()
    ]
    return rows, rates


def _torch(files: NetworkFiles, mode: str, request: CheckRequest) -> EngineProcess:
    spec = {
        "kind": "torch on device",
        "mode": mode,
        "path": str(files.checkpoint),
        "windows": str(files.windows),
        "device": "cpu" if request.dry else "cuda",
        "threads": 2 if request.dry else 8,
    }
    return EngineProcess(spec, request.torch_python)


def _agreement(process: EngineProcess, files: NetworkFiles, batch: int) -> float:
    """At a batch that is timed anyway: each one is compiled for itself."""
    out = files.windows.with_suffix(".found.npy")
    process.ask("logits", out=str(out), batch=batch)
    with np.load(files.windows) as arrays:
        return compared_logits(arrays["logits"], np.load(out))[0]


def _torch_turn(process: EngineProcess, batch: int, turn_s: float) -> Turn:
    calls = 0

    def turn() -> Sequence[float]:
        nonlocal calls
        try:
            if not calls:
                calls = _calls(process.ask("run", batch=batch, calls=1)["ms"][0] * batch, turn_s)
            times: list[float] = process.ask("run", batch=batch, calls=calls)["ms"]
        except EngineRefusedError as fault:
            raise DroppedError from fault
        return times

    return turn


def _plan_turn(run: RunPlan, batch: int, turn_s: float) -> Turn:
    calls = 0

    def turn() -> Sequence[float]:
        nonlocal calls
        calls = calls or _calls(run(batch, 3)[-1], turn_s)
        return [ms / batch for ms in run(batch, calls)]

    return turn


def _calls(ms: float, turn_s: float) -> int:
    return min(MAX_CALLS, max(3, ceil(turn_s * 1000 / max(ms, 1e-3))))


def _product_rates(
    sizes: Mapping[str, int], request: CheckRequest, stack: ExitStack
) -> dict[str, float]:
    """GFLOP/s of FP16 products: the MLP's of this network, and a large square."""
    spec = {"kind": "products on device", "device": "cpu" if request.dry else "cuda", "threads": 2}
    shapes = gemm_shapes(sizes["embed_dim"], sizes["tokens"], (request.best_batch,))
    large = () if request.dry else (LARGE,)
    try:
        process = stack.enter_context(EngineProcess(spec, request.torch_python))
        return {
            "x".join(map(str, shape)): process.ask("measure", shape=shape, calls=20)["gflop_per_s"]
            for shape in (*shapes, *large)
        }
    except EngineRefusedError:
        return {}


def _row(
    network: str,
    cell: Cell,
    samples: Mapping[Cell, Samples],
    facts: Mapping[str, Any],
    said: Mapping[str, Any],
    rates: Mapping[str, float],
) -> SpeedRow:
    engine, batch = cell
    calls = pooled(samples[cell])
    middle = median(calls)
    gflop = facts["gflop_published" if engine in MODES else "gflop"]
    floor = gflop / max(rates.values()) * 1000 if rates else None

    def ratio(mode: str) -> float | None:
        return paired_ratio(samples.get((mode, batch), {}), samples[cell])

    return SpeedRow(
        network=network,
        engine=engine,
        batch=batch,
        device=said.get("device"),
        median_ms=middle,
        p95_ms=percentile(calls, 95),
        windows_per_s=1000 / middle,
        ratio_eager=ratio(EAGER),
        ratio_autocast=ratio(AUTOCAST),
        ratio_compiled=ratio(COMPILED),
        gflop=gflop,
        floor_ms=floor,
        floor_share=floor / middle if floor else None,
        agreement=said.get("agreement"),
        rounds=len(samples[cell]),
    )
