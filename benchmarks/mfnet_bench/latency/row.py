"""One line of a latency run, and how it follows from samples. Runs nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from mfnet_bench.latency.engines import Engines, Warm
from mfnet_bench.latency.networks import COMPILED, OURS, PUBLISHED, EngineSpec, Network
from mfnet_bench.latency.peak_gemm import Ceiling
from mfnet_bench.latency.rounds import (
    Samples,
    paired_ratio,
    percentile,
    pooled,
)


@dataclass(frozen=True, kw_only=True)
class LatencyRow:
    """One engine at one batch; what was not measured is None. Field order is the CSV's."""

    network: str
    model: str  # file name
    backend: str
    precision: str
    batch: int  # windows a call
    threads: int
    window: int  # pixels a side
    device: str | None = None
    median_ms: float | None = None  # of a window
    p95_ms: float | None = None  # of a window, over calls
    windows_per_s: float | None = None  # at the median
    mpx_per_s: float | None = None  # million pixels a second, windows side by side
    ratio_published: float | None = None  # times as fast as PyTorch eager, published order
    ratio_mfnet: float | None = None  # as PyTorch eager, mfnet.MFNet
    ratio_compiled: float | None = None  # as torch.compile of the published order
    agreement: float | None = None  # share of pixels of the class the published order gives
    logit_difference: float | None = None  # the largest, as a share of the range of logits
    gflop: float | None = None  # of one window
    gflop_per_s: float | None = None
    ceiling_gflop_per_s: float | None = None  # the fastest matrix product of this precision
    ceiling: str | None = None  # whose, and of which shape
    ceiling_fraction: float | None = None  # of the two medians: rounds are too short to pair
    peak_rss_mb: float | None = None  # of the engine's process, libraries included
    file_mb: float | None = None
    load_s: float | None = None  # importing the engine included; compiling, where it is compiled
    rounds: int = 0
    calls: int = 0
    refused: str | None = None  # why there are no numbers

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)


def measured_row(
    network: Network,
    engines: Engines,
    spec: EngineSpec,
    samples: Samples,
    baselines: Mapping[str, Samples],
    ceiling: Ceiling | None,
) -> LatencyRow:
    """The row of an engine that ran at least one round.

    Args:
        network: What it is compared within.
        engines: What is known of the engine from before the rounds.
        spec: The engine.
        samples: Milliseconds a window.
        baselines: The same of the PyTorch baselines, by kind.
        ceiling: Of its arithmetic; None where nothing multiplied in it.
    """
    calls, warm = pooled(samples), engines.warm[spec]
    middle = median(calls)
    rate = spec.gflop / middle * 1000
    return LatencyRow(
        **{**_identity(network, engines, spec), **_said(warm)},
        median_ms=middle,
        p95_ms=percentile(calls, 95),
        windows_per_s=1000 / middle,
        mpx_per_s=1000 / middle * network.contract.window**2 / 1e6,
        ratio_published=paired_ratio(baselines.get(PUBLISHED, {}), samples),
        ratio_mfnet=paired_ratio(baselines.get(OURS, {}), samples),
        ratio_compiled=paired_ratio(baselines.get(COMPILED, {}), samples),
        agreement=warm.agreement,
        logit_difference=warm.logit_difference,
        gflop=spec.gflop,
        gflop_per_s=rate,
        ceiling_gflop_per_s=ceiling.gflop_per_s if ceiling else None,
        ceiling=ceiling.name if ceiling else None,
        ceiling_fraction=rate / ceiling.gflop_per_s if ceiling else None,
        peak_rss_mb=warm.peak_rss_mb,
        file_mb=_file_mb(spec.path),
        rounds=len(samples),
        calls=len(calls),
    )


def refused_row(network: Network, engines: Engines, spec: EngineSpec) -> LatencyRow:
    """The row of an engine that did not run, or not to the end."""
    return LatencyRow(**_identity(network, engines, spec), refused=engines.refused[spec])


def _said(warm: Warm) -> dict[str, Any]:
    """What the engine itself says: the precision that really runs, over the one expected."""
    return {name: warm.facts[name] for name in ("device", "precision", "load_s")}


def _identity(network: Network, engines: Engines, spec: EngineSpec) -> dict[str, Any]:
    """What tells a row from the others of its run."""
    return {
        "network": network.name,
        "model": spec.path.name,
        "backend": spec.backend,
        "precision": spec.precision,
        "batch": spec.batch,
        "threads": engines.threads,
        "window": network.contract.window,
    }


def _file_mb(path: Path) -> float:
    """The file and the weights beside it, if any."""
    beside = path.with_name(f"{path.name}.data")
    return sum(file.stat().st_size for file in (path, beside) if file.is_file()) / 1e6
