"""Simulate the coordinator of a long run, with a stub for everything that touches pixels.

    python -m mfnet_bench.scale plan --scenes 100000
    python -m mfnet_bench.scale receipts --scenes 100000 --blocks 100

`plan` plans scenes of 10 million pixels from one pair of files, and records a receipt for each of
their blocks; `receipts` writes a manifest whose last scene is unfinished, and continues it. Both
print a line of JSON. Memory is that of the process, on Linux.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Generator, Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import click

from mfnet_bench.machine import machine_facts
from mfnet_bench.throughput import StubBackend, draw_scene
from mfnet_runtime.backends.base import DEFAULT_BATCH
from mfnet_runtime.files import FileDigest
from mfnet_runtime.raster.geotiff import Block
from mfnet_runtime.raster.pixel_area import ClassAreas
from mfnet_runtime.run import segment
from mfnet_runtime.run.executors.base import Done
from mfnet_runtime.run.inputs import Input
from mfnet_runtime.run.manifest import FILE, Manifest
from mfnet_runtime.run.options import ResumeOptions
from mfnet_runtime.run.outputs import OutputPaths
from mfnet_runtime.run.plan import ScenePlan, plan_scene
from mfnet_runtime.run.state import line_of
from mfnet_runtime.run.task import Receipt, Task
from mfnet_runtime.scene.discovery import Scene
from mfnet_runtime.scene.reader import DEFAULT_OPTIONS
from mfnet_runtime.tiling.pipeline import SceneReport, SegmentOptions

SIDE = 3163  # pixels of a scene: 10 million in all
DIGEST = FileDigest(123_456_789, 1_790_000_000_000_000_000, "a" * 64, sampled=True)
CHECKSUM = 3_123_456_789


class Idle:
    """An executor that returns receipts of blocks that nobody made."""

    workers = 1

    def run(self, tasks: Iterable[Task], *_: Any) -> Generator[Done]:
        """See `Executor.run`."""
        for task in tasks:
            rows, columns = task.place
            block = Block(task.path, columns, rows, (CHECKSUM,))
            report = SceneReport(task.span, len(task.grid), 1, batch=DEFAULT_BATCH)
            yield task, Receipt(task.settings, task.scene.name, block, report)


def finish(plan: ScenePlan, _: Any, outputs: OutputPaths, *__: Any) -> Any:
    """Return what `finish_scene` does, without files."""
    areas = ClassAreas(None, len(StubBackend.contract.classes))
    return dict.fromkeys((path.name for path in outputs.all), DIGEST), areas


def simulate_plans(folder: Path, count: int) -> dict[str, Any]:
    """Run `segment_scenes` on scenes of the same files."""
    scene, backend, options = draw_scene(folder, SIDE), StubBackend(), SegmentOptions()
    rules = (backend.contract, options, DEFAULT_OPTIONS)
    started = time.perf_counter()
    first = plan_scene(scene, *rules, settings="", folder=folder, batch=DEFAULT_BATCH)
    planned = time.perf_counter() - started

    def plan(scene: Scene, *_: Any, settings: str, folder: Path, **__: Any) -> ScenePlan:
        here: Any = {"scene": scene, "folder": folder}
        tasks = tuple(replace(task, settings=settings, **here) for task in first.tasks)
        return replace(first, tasks=tasks, **here)

    before, started = peak(reset=True), time.perf_counter()
    scenes = [replace(scene, name=f"scene-{index:07d}") for index in range(count)]
    with patch.object(segment, "plan_scene", plan), patch.object(segment, "finish_scene", finish):
        out = folder / "out"
        segment.segment_scenes(backend, scenes, out, options, quiet=True, executor=Idle())
    return {
        "scenes": count,
        "pixels": count * SIDE**2,
        "windows": count * sum(len(task.grid) for task in first.tasks),
        "receipts": count * len(first.tasks),
        "seconds": round(time.perf_counter() - started, 1),
        "seconds_to_plan_from_files": round(planned * count, 1),
        "mb_before": before,
        "mb": peak(),
    }


def simulate_receipts(folder: Path, count: int, blocks: int) -> dict[str, Any]:
    """Write a manifest and open it as `--resume` does."""
    out, (last, *done) = folder / "out", [f"scene-{index:07d}" for index in range(count)]
    row = simulated_row(folder)
    inputs = [asdict(Input(role, f"{role}.tif", DIGEST)) for role in ("image", "dsm")]
    files = {f"{last}{suffix}": asdict(DIGEST) for suffix in (".tif", ".tif.aux.xml", ".qml")}
    receipt = {"columns": [0, 8192], "rows": [0, 4096], "crc32": [CHECKSUM]}
    with Manifest(out, {}, ResumeOptions(), [last]) as manifest:
        digest = manifest.digest
    with (out / FILE).open("ab") as file:

        def add(kind: str, scene: str, **fields: Any) -> None:
            record = {"record": kind, "settings": digest, "scene": scene, **fields}
            file.write(line_of(json.dumps(record).encode()) + b"\n")

        for scene in (*done, last):
            add("scene", scene, inputs=inputs)
            for block in range(blocks):
                add("block", scene, file=f"{0:08d}-{4096 * block:08d}.tif", **receipt)
            if scene != last:
                add("done", scene, files=files, row=row)
    before, started = peak(reset=True), time.perf_counter()
    with Manifest(out, {}, ResumeOptions(resume=True), [last]) as manifest:
        seconds = time.perf_counter() - started
        assert len(manifest.state.scene(last).blocks) == blocks
    size = (out / FILE).stat().st_size >> 20
    found = {"scenes": count, "receipts": count * blocks, "manifest_mb": size}
    return {**found, "seconds": round(seconds, 1), "mb_before": before, "mb": peak()}


def simulated_row(folder: Path) -> dict[str, Any]:
    """Return the row of a finished scene in the JSON summary."""
    scenes = [draw_scene(folder, 256)]
    (one,) = segment.segment_scenes(StubBackend(), scenes, folder / "one", SegmentOptions())
    return one.row


def peak(reset: bool = False) -> int:
    """Return the most memory that this process has had since the last reset, in MB."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) >> 10


@click.command()
@click.argument("what", type=click.Choice(["plan", "receipts"]))
@click.option("--scenes", type=int, default=100_000, show_default=True)
@click.option("--blocks", type=int, default=100, show_default=True, help="Of a scene; receipts.")
def main(what: str, scenes: int, blocks: int) -> None:
    """Print what was simulated, with its time and memory, as JSON."""
    with tempfile.TemporaryDirectory(prefix="mfnet-scale-") as name:
        found = (
            simulate_plans(Path(name), scenes)
            if what == "plan"
            else simulate_receipts(Path(name), scenes, blocks)
        )
    click.echo(json.dumps({what: found, "machine": machine_facts()}))


if __name__ == "__main__":
    main()
