"""Latency of exported files against PyTorch, side by side: engines in processes of their own.

Warm up, then rounds in which every engine runs once; ratios are taken inside a round. How an
engine computes is `latency_worker`'s, what a row says `latency_row`'s.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from mfnet_bench.latency.engines import Engines
from mfnet_bench.latency.machine import machine_facts
from mfnet_bench.latency.networks import (
    PUBLISHED,
    EngineSpec,
    Network,
    networks_from_request,
)
from mfnet_bench.latency.peak_gemm import Ceiling, ceilings_from, gemm_shapes, product_turns
from mfnet_bench.latency.request import LatencyRequest
from mfnet_bench.latency.rounds import Samples, Turn, interleaved
from mfnet_bench.latency.row import LatencyRow, measured_row, refused_row
from mfnet_runtime.errors import ModelError

Tell = Callable[[str], None]
Result = list[tuple[LatencyRow, Samples]]


@dataclass(frozen=True)
class LatencyRun:
    """All that a run measured."""

    started: str  # UTC, to the second
    machine: dict[str, Any]
    rounds: int
    windows: str  # what classes were compared on
    results: Result  # rows and their milliseconds a window by round

    @property
    def rows(self) -> list[LatencyRow]:
        """The rows alone."""
        return [row for row, _ in self.results]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
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


def measured(request: LatencyRequest, tell: Tell = lambda _: None) -> LatencyRun:
    """Run everything, one network after the other.

    Args:
        request: What to do.
        tell: Told what is being done, a few words each.

    Raises:
        UsageError: a checkpoint or scene folder is missing.
        ModelError: a file is damaged, of another network, or the baseline does not run.
        SceneError: a scene is damaged.
    """
    from mfnet_export.validation.sample_windows import NOISE_WINDOWS, sample_windows

    networks = networks_from_request(request)
    started = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    machine = machine_facts()
    results: Result = []
    source = ""
    for network in networks:
        windows = sample_windows(network.contract, request.scenes, request.windows)
        source = windows.source.partition(",")[0]  # noise is left out: no scene looks like it
        real = slice(0, len(windows) - NOISE_WINDOWS)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "windows.npz"
            np.savez(path, image=windows.image[real], dsm=windows.dsm[real])
            threads = request.threads or int(machine["cores"])
            results += _network_results(network, request, path, threads, tell)
    return LatencyRun(started, machine, request.rounds, source, results)


def _network_results(
    network: Network, request: LatencyRequest, windows: Path, threads: int, tell: Tell
) -> Result:
    """Measure one network: baselines, engines, and the ceilings of their precisions."""
    engines = Engines(windows, threads, lambda note: tell(f"{network.name}: {note}"))
    samples: dict[Any, dict[int, Sequence[float]]] = {}  # of engines and products
    with ExitStack() as stack:
        baselines = _baseline_turns(network, engines, stack)
        products = _product_turns(network, request.batches, engines, stack)
        pending, first = list(network.engines), 0
        while pending or not first:  # once, unless memory does not hold all engines
            with ExitStack() as party:
                turns: dict[EngineSpec, Turn] = {}
                while pending and (not turns or engines.memory_left()):
                    turns |= _opened(engines, pending.pop(0), party)
                rounds = range(first, first + request.rounds)
                tell(f"{network.name}: {len(rounds)} rounds of {len(turns)} engines and PyTorch")
                for key, found in interleaved({**baselines, **turns, **products}, rounds).items():
                    samples.setdefault(key, {}).update(found)
            first += request.rounds
    ceilings = ceilings_from({product: samples[product] for product in products})
    return _results(network, engines, samples, ceilings)


def _opened(engines: Engines, spec: EngineSpec, stack: ExitStack) -> dict[EngineSpec, Turn]:
    """The engine's turns, if it runs, for as long as the stack lasts."""
    found = engines.opened(spec)
    if found is None:
        return {}
    process, turn = found
    stack.enter_context(process)
    return {spec: turn}


def _baseline_turns(network: Network, engines: Engines, stack: ExitStack) -> dict[Any, Turn]:
    """The published order at its fastest batch, the other baselines at the same.

    Raises:
        ModelError: the published order does not run.
    """
    published = [spec for spec in network.baselines if spec.kind == PUBLISHED]
    turns: dict[Any, Turn] = {}
    best: EngineSpec | None = None
    with ExitStack() as kept:
        for spec in published:
            with ExitStack() as trial:
                found = _opened(engines, spec, trial)
                if found and (best is None or engines.warm[spec].ms < engines.warm[best].ms):
                    kept.close()
                    kept.push(trial.pop_all())
                    best, turns = spec, {**found}
        if best is None:
            reason = engines.refused[published[0]]
            raise ModelError(f"{network.checkpoint}: the baseline does not run: {reason}")
        stack.push(kept.pop_all())
    engines.refused.clear()  # batches that the baseline need not run
    for spec in network.baselines:
        if spec.kind != PUBLISHED and spec.batch == best.batch:
            turns |= _opened(engines, spec, stack)
    return turns


def _product_turns(
    network: Network, batches: tuple[int, ...], engines: Engines, stack: ExitStack
) -> dict[Any, Turn]:
    specs = (*network.baselines, *network.engines)
    precisions = list(dict.fromkeys(spec.arithmetic for spec in specs))
    shapes = gemm_shapes(network.embed_dim, network.tokens, batches)
    return {**product_turns(precisions, shapes, engines.threads, stack)}


def _results(
    network: Network,
    engines: Engines,
    samples: Mapping[Any, Samples],
    ceilings: dict[str, Ceiling],
) -> Result:
    """Rows in the order of the plan; baselines have one batch, the others were never to run."""
    baselines = {spec.kind: samples[spec] for spec in network.baselines if spec in samples}
    found: Result = []
    for spec in (*network.baselines, *network.engines):
        if spec in engines.refused:
            found.append((refused_row(network, engines, spec), {}))
        elif spec in samples:
            ceiling = ceilings.get(spec.arithmetic)
            row = measured_row(network, engines, spec, samples[spec], baselines, ceiling)
            found.append((row, samples[spec]))
    return found
