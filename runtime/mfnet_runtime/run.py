"""Segment many scenes with one model: a failing scene is reported, the others still run."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from mfnet_runtime.backends.base import Backend
from mfnet_runtime.batch_size import BatchSize
from mfnet_runtime.command import complain, one_line, progress
from mfnet_runtime.errors import ResourceError, SceneError, UsageError
from mfnet_runtime.ground_area import ClassAreas
from mfnet_runtime.memory import block_width, pixel_memory
from mfnet_runtime.outputs import OutputPaths, SceneOutputs
from mfnet_runtime.pipeline import SceneReport, SegmentOptions, segment_scene
from mfnet_runtime.provenance import provenance_tags
from mfnet_runtime.raster import ReadReport, SceneReader
from mfnet_runtime.read_options import ReadOptions
from mfnet_runtime.scenes import Scene
from mfnet_runtime.vector_file import require_vectors
from mfnet_runtime.vectors import VectorOptions
from mfnet_runtime.windows import WindowGrid


@dataclass(frozen=True)
class SceneOutcome:
    """What became of a scene: outputs and reports, or an error."""

    scene: Scene
    outputs: OutputPaths
    report: SceneReport | None = None
    read: ReadReport | None = None
    areas: ClassAreas | None = None  # None also where pixels have no known area
    error: str | None = None

    def to_json(self, classes: Sequence[str]) -> dict[str, Any]:
        """The scene's part of the JSON summary."""
        if self.report is None or self.read is None:
            return {"scene": self.scene.name, "status": "failed", "error": self.error}
        report = self.report
        valid = sum(report.pixels)
        shares = self.areas.m2 if self.areas else [float(count) for count in report.pixels]
        whole = sum(shares) or 1.0
        return {
            "scene": self.scene.name,
            "status": "done",
            "output": str(self.outputs.classes),
            **self.outputs.to_json(),
            "windows": report.windows,
            "blocks": report.blocks,
            "skipped_windows": report.skipped,
            "batch": report.batch,
            "dsm_low": report.dsm.low,
            "dsm_high": report.dsm.high,
            "dsm_constant": report.dsm.constant,
            **self.read.to_json(),
            "class_pixels": dict(zip(classes, report.pixels, strict=True)),
            "class_percent": {
                name: round(100 * share / whole, 4)
                for name, share in zip(classes, shares, strict=True)
            },
            "class_area_m2": dict(zip(classes, shares, strict=True)) if self.areas else None,
            "area_from": self.areas.how if self.areas else None,
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
    vectors: VectorOptions | None = None,
    *,
    tags: Mapping[str, str] | None = None,
    quiet: bool = False,
) -> list[SceneOutcome]:
    """Write `folder/NAME.tif`, and what else is asked for, for every scene.

    Args:
        backend: Entered.
        scenes: What to segment.
        folder: Made where missing.
        options: Stride, blending, batch, where pixels are worked on, layers besides classes.
        read: How to read scenes; None takes them as they are stored.
        vectors: Polygons to make too.
        tags: Provenance for all outputs, besides what the backend and the options say.
        quiet: No progress bar.

    Raises:
        UsageError: `folder` holds inputs, is a file, or has a folder in an output's place; outputs
            of two scenes would have the same name; or the backend takes no such batch.
        ResourceError: the disk is full, the folder cannot be written, or the backend has not the
            memory for the batch.
        ModuleNotFoundError: polygons are asked for, and the extra for them is not installed.
    """
    # a batch found by timing holds for all scenes
    sizes = BatchSize(options.batch, backend.batches)
    reading = read or ReadOptions()
    if vectors:
        require_vectors(vectors)
    places = [OutputPaths.of(folder, scene.name, options.layers, vectors) for scene in scenes]
    _require_places(scenes, places, folder)
    run = _Run(
        backend,
        options,
        reading,
        vectors,
        {**provenance_tags(backend, options, reading), **(tags or {})},
        sizes,
        quiet,
    )
    outcomes = []
    for index, (scene, outputs) in enumerate(zip(scenes, places, strict=True), start=1):
        label = f"{scene.name} ({index}/{len(scenes)})"
        try:
            outcomes.append(run.segmented(scene, outputs, label))
        except SceneError as fault:
            complain(str(fault))
            outcomes.append(SceneOutcome(scene, outputs, error=str(fault)))
    if options.batch == "auto":
        how = "the fastest by timing" if sizes.timed else "too few windows to time others"
        click.echo(f"batch {sizes.chosen}, {how}", err=True)
    return outcomes


@dataclass(frozen=True)
class _Run:
    """What is the same for all scenes."""

    backend: Backend
    options: SegmentOptions
    read: ReadOptions
    vectors: VectorOptions | None
    tags: Mapping[str, str]
    sizes: BatchSize
    quiet: bool

    def segmented(self, scene: Scene, outputs: OutputPaths, label: str) -> SceneOutcome:
        """One scene, its files written.

        Raises:
            SceneError: it cannot be read, or its outputs not be made.
        """
        started = time.perf_counter()
        outputs.require_short_names()
        contract = self.backend.contract
        with ExitStack() as opened:
            reader = opened.enter_context(SceneReader(scene, contract.image.full_scale, self.read))
            shape = reader.height, reader.width
            grid = self.options.grid(*shape, contract.window)
            options = self._by_blocks(reader, grid)
            blocks = options.blocks(grid)
            opened.enter_context(reader.small_cache(max(len(block.under) for block in blocks)))
            found = reader.report()
            for line in found.lines:
                click.echo(one_line(f"{scene.name}: {line}"), err=True)
            with (
                SceneOutputs(
                    outputs, shape, contract.classes, reader.profile, self.tags, self.vectors
                ) as writer,
                progress(sum(len(block) for block in blocks), label, self.quiet) as tick,
            ):
                report = segment_scene(
                    self.backend, reader, writer.write, options, tick, self.sizes
                )
                writer.tag(MFNET_DSM_LOW=str(report.dsm.low), MFNET_DSM_HIGH=str(report.dsm.high))
                if found.image_range:
                    writer.tag(MFNET_IMAGE_RANGE=" ".join(map(str, found.image_range)))
        report.total_s = time.perf_counter() - started  # opening, closing and verifying too
        return SceneOutcome(scene, outputs, report, found, writer.areas)

    def _by_blocks(self, reader: SceneReader, grid: WindowGrid) -> SegmentOptions:
        """The options, with blocks that memory allows unless they are told.

        Raises:
            UsageError: even narrow ones do not fit.
        """
        if self.options.block is not None:
            return self.options
        needs = pixel_memory(reader, grid, self.backend.contract, self.sizes.largest)
        width = block_width(grid, needs, self.options.max_memory)
        return replace(self.options, block=width)


def _require_places(scenes: Sequence[Scene], places: Sequence[OutputPaths], folder: Path) -> None:
    """Make the folder; refuse one, or names in it, that would cost what is there.

    Raises:
        UsageError: it holds inputs, is a file, has a folder in an output's place, or two scenes
            have an output of the same name.
        ResourceError: it cannot be made.
    """
    inputs = {path.resolve() for scene in scenes for path in (scene.image, scene.dsm)}
    if folder.resolve() in {path.parent for path in inputs}:
        raise UsageError(f"{folder}: holds inputs; choose another folder with -o")
    for path, count in Counter(path for outputs in places for path in outputs.all).items():
        if count > 1:
            raise UsageError(f"{path}: two scenes would write it; rename one")
        if path.is_dir():
            raise UsageError(f"{path}: is a folder; choose another one with -o")
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder}: is a file; choose a folder with -o")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as fault:
        raise ResourceError(
            f"{folder}: cannot be made ({fault.strerror}); choose another folder with -o"
        ) from fault
