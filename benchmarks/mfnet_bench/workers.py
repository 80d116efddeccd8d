"""Measure how well workers of this machine share a run, with a stub for the network.

    python -m mfnet_bench.workers --workers 1,2,4,8 --executors processes,dask:local
    python -m mfnet_bench.workers --workers 1,2,4 --executors processes --computes

The stub sleeps for each window, so that there may be more workers than cores, or computes on one
core. Each scene is a block of 36 windows. The time begins with the first block of the last worker,
when all have started, and ends with the last block: planning and finishing scenes count.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np

from mfnet_bench.machine import machine_facts
from mfnet_bench.throughput import StubBackend, draw_scene
from mfnet_runtime.backends.base import Arrays, Feed
from mfnet_runtime.run.executors.base import Executor
from mfnet_runtime.run.executors.dask import DaskExecutor, connected
from mfnet_runtime.run.executors.processes import ProcessExecutor
from mfnet_runtime.run.segment import segment_scenes
from mfnet_runtime.tiling.pipeline import SegmentOptions

SIDE, STRIDE = 896, 128  # pixels; 36 windows of 256
SECONDS = 0.0825  # of a window: ViT-B in INT8 and BF16 on 2 cores, see results/latency
STEPS = 600  # exponentials of a window, which take about as long
ROUNDS = 5  # blocks of each worker


class SlowStub(StubBackend):
    """A stub that takes time."""

    def __init__(self, computes: bool) -> None:
        self._computes = computes

    def infer(self, feed: Feed) -> Arrays:
        """Sleep or compute, by the number of windows."""
        if self._computes:
            made = np.empty_like(feed["image"])  # one: workers of Dask return large blocks at once
            for _ in range(STEPS):
                np.exp(feed["image"], out=made)
        else:
            time.sleep(SECONDS * len(feed["image"]))
        return super().infer(feed)


@dataclass(frozen=True)
class OpenStub:
    """Opens the stub on a worker."""

    computes: bool

    def __call__(self, threads: int) -> SlowStub:
        """Open it."""
        return SlowStub(self.computes)


@contextmanager
def opened(kind: str, workers: int, opener: OpenStub) -> Iterator[Executor]:
    """Open an executor: processes, or dask:local."""
    if kind == "processes":
        yield ProcessExecutor(workers, opener)
        return
    with connected(f"local:{workers}") as client:
        yield DaskExecutor(client, opener)


def blocks_per_second(kind: str, workers: int, computes: bool) -> float:
    """Run `ROUNDS` blocks a worker; return the rate of all but each worker's first."""
    times: list[float] = []

    def tick(windows: int) -> None:
        times.append(time.perf_counter())

    opener, options = OpenStub(computes), SegmentOptions(STRIDE)
    with (
        tempfile.TemporaryDirectory(prefix="mfnet-workers-") as folder,
        opened(kind, workers, opener) as executor,
    ):
        scene = draw_scene(Path(folder), SIDE)
        scenes = [replace(scene, name=f"scene-{index}") for index in range(ROUNDS * workers)]
        out = Path(folder) / "out"
        segment_scenes(opener(1), scenes, out, options, tick=tick, executor=executor)
    assert len(times) == len(scenes)
    return (len(times) - workers) / (times[-1] - times[workers - 1])


@click.command()
@click.option("--workers", default="1,2,4,8", show_default=True, metavar="N,N,...")
@click.option("--executors", default="processes,dask:local", show_default=True)
@click.option("--computes", is_flag=True, help="Compute instead of sleeping.")
def main(workers: str, executors: str, computes: bool) -> None:
    """Print a line of JSON: blocks a second, and efficiency against one worker."""
    found: list[dict[str, Any]] = []
    for kind in executors.split(","):
        one = 0.0
        for count in map(int, workers.split(",")):
            rate = blocks_per_second(kind, count, computes)
            one = one or rate / count
            found.append(
                {
                    "executor": kind,
                    "workers": count,
                    "blocks_per_s": round(rate, 4),
                    "efficiency": round(rate / count / one, 3),
                }
            )
    asked = {"stub": "computes" if computes else "sleeps", "windows_a_block": 36}
    click.echo(json.dumps({**asked, "runs": found, "machine": machine_facts()}))


if __name__ == "__main__":
    main()
