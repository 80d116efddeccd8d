"""Latency of exported files against PyTorch, side by side: warm up, then interleaved rounds."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from mfnet_bench.latency.engines import Engines
from mfnet_bench.latency.gemm import Ceiling, ceilings_from, gemm_shapes, product_turns
from mfnet_bench.latency.networks import EngineSpec, Network, networks_from_request
from mfnet_bench.latency.request import COMPILED, OURS, PUBLISHED, LatencyRequest
from mfnet_bench.latency.rounds import Samples, Turn, interleave, paired_ratio, pool
from mfnet_bench.machine import machine_facts
from mfnet_runtime.errors import ModelError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class LatencyRow:
    """One engine at one batch; what was not measured is None. Field order is the CSV's."""

    network: str
    model: str  # file name
    backend: str
    precision: str
    batch: int  # windows per call
    threads: int
    window: int  # pixels a side
    device: str | None = None
    median_ms: float | None = None  # per window
    p95_ms: float | None = None  # per window, over calls
    windows_per_s: float | None = None  # at the median
    mpx_per_s: float | None = None  # million pixels per second, windows side by side
    ratio_published: float | None = None  # times as fast as PyTorch eager, published order
    ratio_mfnet: float | None = None  # as PyTorch eager, mfnet.MFNet
    ratio_compiled: float | None = None  # as torch.compile of the published order
    agreement: float | None = None  # share of pixels with the class of the published order
    logit_difference: float | None = None  # the largest, as a share of the range of logits
    gflop: float | None = None  # of one window
    gflop_per_s: float | None = None
    ceiling_gflop_per_s: float | None = None  # the fastest matrix product of this precision
    ceiling: str | None = None  # its library and shape
    ceiling_fraction: float | None = None  # of the two medians: rounds are too short to pair
    peak_rss_mb: float | None = None  # of the engine's process, libraries included
    file_mb: float | None = None
    load_s: float | None = None  # importing the engine included; compiling, where it is compiled
    rounds: int = 0
    calls: int = 0
    refused: str | None = None  # why there are no numbers

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return asdict(self)


Result = list[tuple[LatencyRow, Samples]]  # rows, and their milliseconds per window by round


@dataclass(frozen=True)
class LatencyRun:
    """All that a run measured."""

    started: str  # UTC, to the second
    machine: dict[str, Any]
    rounds: int
    windows: str  # on which classes were compared
    results: Result

    @property
    def rows(self) -> list[LatencyRow]:
        """The rows alone."""
        return [row for row, _ in self.results]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {
            "started": self.started,
            "machine": self.machine,
            "rounds": self.rounds,
            "windows": self.windows,
            "rows": [
                {**row.to_dict(), "ms": [list(taken[number]) for number in sorted(taken)]}
                for row, taken in self.results
            ],
        }


def measure(request: LatencyRequest) -> LatencyRun:
    """Measure everything, one network after the other.

    Raises:
        UsageError: A checkpoint or scene folder is missing.
        ModelError: A file is damaged, of another network, or the baseline does not run.
        SceneError: A scene is damaged.
    """
    from mfnet_export.validation.sample_windows import NOISE_WINDOWS, sample_windows

    networks = networks_from_request(request)
    started = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    machine = machine_facts()
    results: Result = []
    source = ""
    for network in networks:
        windows = sample_windows(network.contract, request.scenes, request.windows, request.read)
        source = windows.source.partition(",")[0]  # without the noise: no scene looks like it
        real = slice(0, len(windows) - NOISE_WINDOWS)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "windows.npz"
            np.savez(path, image=windows.image[real], dsm=windows.dsm[real])
            threads = request.threads or int(machine["cores"])
            engines = Engines(path, threads, request.device, request.plan_python)
            results += _measure_network(network, request, engines)
    return LatencyRun(started, machine, request.rounds, source, results)


def _measure_network(network: Network, request: LatencyRequest, engines: Engines) -> Result:
    """Measure baselines, engines, and the ceilings of their precisions, in the same rounds."""
    samples: dict[Any, dict[int, Sequence[float]]] = {}  # of engines and products
    specs = (*network.baselines, *network.engines)
    precisions = list(dict.fromkeys(spec.arithmetic for spec in specs))
    shapes = gemm_shapes(network.embed_dim, network.tokens, request.batches, request.device)
    with ExitStack() as stack:
        baselines = _baseline_turns(network, engines, stack)
        products = product_turns(precisions, shapes, engines.threads, stack, request.device)
        pending, first = list(network.engines), 0
        while pending or not first:  # once, unless memory does not hold all engines
            with ExitStack() as group:
                turns: dict[Any, Turn] = {}
                while pending and (not turns or engines.fits_another()):
                    turns |= engines.open(pending.pop(0), group)
                logger.info(
                    "%s: %d rounds of %d engines and PyTorch",
                    network.name,
                    request.rounds,
                    len(turns),
                )
                rounds = range(first, first + request.rounds)
                for key, found in interleave({**baselines, **turns, **products}, rounds).items():
                    samples.setdefault(key, {}).update(found)
            first += request.rounds
    ceilings = ceilings_from({product: samples[product] for product in products})
    return _results(network, engines, samples, ceilings)


def _baseline_turns(network: Network, engines: Engines, stack: ExitStack) -> dict[Any, Turn]:
    """Open the published order at its fastest batch, and the other baselines at the same.

    Raises:
        ModelError: The published order does not run.
    """
    published = [spec for spec in network.baselines if spec.kind == PUBLISHED]
    if len(published) > 1:
        for spec in published:  # a trial; the fastest is loaded again below
            with ExitStack() as trial:
                engines.open(spec, trial)
        published.sort(key=lambda spec: engines.warm[spec].ms if spec in engines.warm else np.inf)
    best = published[0]
    turns = engines.open(best, stack)
    if not turns:
        raise ModelError(
            f"{network.checkpoint}: the baseline does not run: {engines.refused[best]}"
        )
    engines.refused.clear()  # batches that the baseline need not run
    for spec in network.baselines:
        if spec.kind != PUBLISHED and spec.batch == best.batch:
            turns |= engines.open(spec, stack)
    return dict(turns)


def _results(
    network: Network,
    engines: Engines,
    samples: Mapping[Any, Samples],
    ceilings: Mapping[str, Ceiling],
) -> Result:
    """Make rows in the order of the specs; baselines ran at one batch, the others are left out."""
    baselines = {spec.kind: samples[spec] for spec in network.baselines if spec in samples}
    found: Result = []
    for spec in (*network.baselines, *network.engines):
        row = LatencyRow(
            network=network.name,
            model=spec.path.name,
            backend=spec.backend,
            precision=spec.precision,
            batch=spec.batch,
            threads=engines.threads,
            window=network.contract.window,
            refused=engines.refused.get(spec),
        )
        if spec in engines.refused:
            found.append((row, {}))
        elif spec in samples:
            ceiling = ceilings.get(spec.arithmetic)
            measured = _measured(network, engines, spec, samples[spec], baselines, ceiling)
            found.append((LatencyRow(**{**row.to_dict(), **measured}), samples[spec]))
    return found


def _measured(
    network: Network,
    engines: Engines,
    spec: EngineSpec,
    samples: Samples,
    baselines: Mapping[str, Samples],
    ceiling: Ceiling | None,
) -> dict[str, Any]:
    """Return the fields of the row of an engine that ran one round at least."""
    calls, warm = pool(samples), engines.warm[spec]
    middle = median(calls)
    rate = spec.gflop / middle * 1000
    weights = spec.path.with_name(f"{spec.path.name}.data")
    files = [file for file in (spec.path, weights) if file.is_file()]
    return {
        **warm.facts,  # the engine itself says in which precision it really runs
        "median_ms": middle,
        "p95_ms": float(np.percentile(calls, 95)),
        "windows_per_s": 1000 / middle,
        "mpx_per_s": 1000 / middle * network.contract.window**2 / 1e6,
        "ratio_published": paired_ratio(baselines.get(PUBLISHED, {}), samples),
        "ratio_mfnet": paired_ratio(baselines.get(OURS, {}), samples),
        "ratio_compiled": paired_ratio(baselines.get(COMPILED, {}), samples),
        "agreement": warm.agreement,
        "logit_difference": warm.logit_difference,
        "gflop": spec.gflop,
        "gflop_per_s": rate,
        "ceiling_gflop_per_s": ceiling.gflop_per_s if ceiling else None,
        "ceiling": ceiling.name if ceiling else None,
        "ceiling_fraction": rate / ceiling.gflop_per_s if ceiling else None,
        "peak_rss_mb": warm.peak_rss_mb,
        "file_mb": sum(file.stat().st_size for file in files) / 1e6,
        "rounds": len(samples),
        "calls": len(calls),
    }
