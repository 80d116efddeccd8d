"""Segment many scenes with one model: a failing scene is reported, the others still run."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from mfnet_runtime.backends.base import Backend
from mfnet_runtime.batch_size import BatchSize
from mfnet_runtime.classmap import ClassMapWriter
from mfnet_runtime.command import complain, one_line, progress
from mfnet_runtime.errors import ResourceError, SceneError, UsageError
from mfnet_runtime.pipeline import SceneReport, SegmentOptions, segment_scene
from mfnet_runtime.raster import ReadReport, SceneReader
from mfnet_runtime.read_options import ReadOptions
from mfnet_runtime.scenes import Scene


@dataclass(frozen=True)
class SceneOutcome:
    """What became of a scene: an output and a report, or an error."""

    scene: Scene
    output: Path
    report: SceneReport | None = None
    read: ReadReport | None = None
    error: str | None = None

    def to_json(self, classes: Sequence[str]) -> dict[str, Any]:
        """The scene's part of the JSON summary."""
        if self.report is None or self.read is None:
            return {"scene": self.scene.name, "status": "failed", "error": self.error}
        report = self.report
        valid = sum(report.pixels)
        return {
            "scene": self.scene.name,
            "status": "done",
            "output": str(self.output),
            "windows": report.windows,
            "skipped_windows": report.skipped,
            "batch": report.batch,
            "dsm_low": report.dsm.low,
            "dsm_high": report.dsm.high,
            "dsm_constant": report.dsm.constant,
            **self.read.to_json(),
            "class_pixels": dict(zip(classes, report.pixels, strict=True)),
            "nodata_pixels": report.nodata,
            "valid_pixels": valid,
            "backend_s": round(report.backend_s, 4),
            "total_s": round(report.total_s, 4),
        }


def segment_scenes(
    backend: Backend,
    scenes: Sequence[Scene],
    folder: Path,
    options: SegmentOptions,
    read: ReadOptions | None = None,
    *,
    quiet: bool = False,
) -> list[SceneOutcome]:
    """Write `folder/NAME.tif` for every scene.

    Args:
        backend: Entered.
        scenes: What to segment.
        folder: Made where missing.
        options: Stride, blending, batch, where pixels are worked on.
        read: How to read scenes; None takes them as they are stored.
        quiet: No progress bar.

    Raises:
        UsageError: `folder` holds inputs, is a file, or has a folder in an output's place, or the
            backend takes no such batch.
        ResourceError: the disk is full, the folder cannot be written, or the backend has not the
            memory for the batch.
    """
    # a batch found by timing holds for all scenes
    sizes = BatchSize(options.batch, backend.batches)
    outputs = {scene.name: folder / f"{scene.name}.tif" for scene in scenes}
    inputs = {path.resolve() for scene in scenes for path in (scene.image, scene.dsm)}
    if folder.resolve() in {path.parent for path in inputs}:
        raise UsageError(f"{folder}: holds inputs; choose another folder with -o")
    for output in outputs.values():
        if output.is_dir():
            raise UsageError(f"{output}: is a folder; choose another one with -o")
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder}: is a file; choose a folder with -o")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as fault:
        raise ResourceError(
            f"{folder}: cannot be made ({fault.strerror}); choose another folder with -o"
        ) from fault
    outcomes = []
    for index, scene in enumerate(scenes, start=1):
        label = f"{scene.name} ({index}/{len(scenes)})"
        output = outputs[scene.name]
        try:
            report, found = _segment_one(
                backend, scene, output, options, read or ReadOptions(), sizes, label, quiet
            )
        except SceneError as fault:
            complain(str(fault))
            outcomes.append(SceneOutcome(scene, output, error=str(fault)))
        else:
            outcomes.append(SceneOutcome(scene, output, report, found))
    if options.batch == "auto":
        how = "the fastest by timing" if sizes.timed else "too few windows to time others"
        click.echo(f"batch {sizes.chosen}, {how}", err=True)
    return outcomes


def _segment_one(
    backend: Backend,
    scene: Scene,
    output: Path,
    options: SegmentOptions,
    read: ReadOptions,
    sizes: BatchSize,
    label: str,
    quiet: bool,
) -> tuple[SceneReport, ReadReport]:
    started = time.perf_counter()
    contract = backend.contract
    with (
        SceneReader(scene, contract.image.full_scale, read) as reader,
        reader.small_cache(),
    ):
        found = reader.report()
        for line in found.lines:
            click.echo(one_line(f"{scene.name}: {line}"), err=True)
        grid = options.grid(reader.height, reader.width, contract.window)
        tags = {
            "MFNET_CONTRACT": contract.to_json(),
            "MFNET_BACKEND": f"{backend.name}: {backend.device}",
            "MFNET_STRIDE": str(grid.stride),
            "MFNET_BLEND": options.blend,
        }
        with (
            ClassMapWriter(
                output, reader.height, reader.width, contract.classes, reader.profile, tags
            ) as writer,
            progress(len(grid), label, quiet) as tick,
        ):
            report = segment_scene(
                backend, reader, lambda rows: writer.write(rows.classes), options, tick, sizes
            )
            writer.tag(MFNET_DSM_LOW=str(report.dsm.low), MFNET_DSM_HIGH=str(report.dsm.high))
    report.total_s = time.perf_counter() - started  # opening, closing and verifying too
    return report, found
