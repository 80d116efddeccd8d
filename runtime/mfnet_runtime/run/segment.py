"""Segment many scenes with one model: a failing scene is reported, the others still run."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import click

from mfnet_runtime.backends.base import Backend
from mfnet_runtime.checks.scene import warnings_for
from mfnet_runtime.console import complain, one_line, progress
from mfnet_runtime.errors import ModelError, SceneError
from mfnet_runtime.raster.polygons import VectorOptions
from mfnet_runtime.raster.vector_file import require_vectors
from mfnet_runtime.run.chunks import PieceWriter
from mfnet_runtime.run.outputs import SceneOutputs
from mfnet_runtime.run.paths import OutputPaths, require_places
from mfnet_runtime.run.progress import OtherInput, SceneWork
from mfnet_runtime.run.provenance import provenance_tags, run_settings
from mfnet_runtime.run.report import (
    SceneOutcome,
    done_scene,
    earlier_scene,
    failed_scene,
    finished_row,
    shared_scene,
)
from mfnet_runtime.run.workdir import ResumeOptions, RunFolder
from mfnet_runtime.scene.discovery import Scene
from mfnet_runtime.scene.normalize import DsmRange
from mfnet_runtime.scene.options import ReadOptions
from mfnet_runtime.scene.reader import SceneReader
from mfnet_runtime.tiling.batch_size import BatchSize
from mfnet_runtime.tiling.grid import WindowGrid
from mfnet_runtime.tiling.memory import block_width, pixel_memory
from mfnet_runtime.tiling.pipeline import SceneReport, SegmentOptions, segment_scene


def segment_scenes(
    backend: Backend,
    scenes: Sequence[Scene],
    folder: Path,
    options: SegmentOptions,
    read: ReadOptions | None = None,
    vectors: VectorOptions | None = None,
    *,
    resume: ResumeOptions | None = None,
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
        resume: Whether to go on with an earlier run, and who shares this one.
        tags: Provenance for all outputs, besides what the backend and the options say.
        quiet: No progress bar.

    Raises:
        UsageError: `folder` holds inputs, is a file, or has a folder in an output's place; outputs
            of two scenes would have the same name; the backend takes no such batch; or a run in
            `folder` does not go together with this one.
        ResourceError: the disk is full, the folder cannot be written, or the backend has not the
            memory for the batch.
        ModuleNotFoundError: polygons are asked for, and the extra for them is not installed.
    """
    # a batch found by timing holds for all scenes
    sizes = BatchSize(options.batch, backend.batches)
    reading, resuming = read or ReadOptions(), resume or ResumeOptions()
    if vectors:
        require_vectors(vectors)
    places = [OutputPaths.of(folder, scene.name, options, vectors) for scene in scenes]
    require_places(scenes, places, folder)
    settings = run_settings(backend, options, reading, vectors, tags or {}, scenes)
    names = [scene.name for scene in scenes]
    every = {**provenance_tags(backend, options, reading), **(tags or {})}
    outcomes = []
    with RunFolder(folder, settings, resuming, names) as shared:
        run = _Run(backend, options, reading, vectors, every, sizes, shared, resuming, quiet)
        try:
            for index, (scene, outputs) in enumerate(zip(scenes, places, strict=True)):
                label = f"{scene.name} ({index + 1}/{len(scenes)})"
                try:
                    outcomes.append(run.segmented(scene, outputs, label, (index, len(scenes))))
                except SceneError as fault:
                    complain(str(fault))
                    if not isinstance(fault, OtherInput):
                        shared.manifest.append("failed", scene=scene.name, error=str(fault))
                    outcomes.append(failed_scene(scene.name, str(fault)))
        except BaseException:
            if shared.manifest.state.unfinished:
                done = sum(not outcome.failed for outcome in outcomes)
                click.echo(
                    f"{done} of {len(scenes)} scenes are done; --resume goes on from here", err=True
                )
            raise
        shared.end()
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
    folder: RunFolder
    resume: ResumeOptions
    quiet: bool

    def segmented(
        self, scene: Scene, outputs: OutputPaths, label: str, place: tuple[int, int]
    ) -> SceneOutcome:
        """One scene, or this process's part of it, its files written.

        Args:
            scene: Its files.
            outputs: Where its outputs go.
            label: For people.
            place: Which of how many scenes it is, from 0.

        Raises:
            SceneError: it cannot be read, or its outputs not be made.
        """
        started = time.perf_counter()
        outputs.require_short_names()
        contract = self.backend.contract
        work = SceneWork(self.folder, scene, outputs, outputs.bands(contract.classes))
        done = work.done()
        if done is not None:
            return earlier_scene(done, outputs)
        if self.resume.shard.leaves(*place):
            return shared_scene(scene.name)
        with ExitStack() as opened:
            opening = SceneReader(scene, contract.image.full_scale, self.read, work.folder)
            reader = opened.enter_context(opening)
            target = SceneOutputs(
                outputs,
                (reader.height, reader.width),
                contract.classes,
                reader.profile,
                self.tags,
                self.vectors,
                work.folder,
            )
            grid = self.options.grid(reader.height, reader.width, contract.window)
            needs = pixel_memory(reader, grid, contract, self.sizes.largest, self.options.sum)
            block = self.options.block or block_width(grid, needs, self.options.max_memory)
            widest = max(len(part.under) for part in grid.blocks(block))
            opened.enter_context(reader.small_cache(widest))
            rule = self.options.dsm_rule(contract.dsm)
            begun = work.begun(reader.files, block, rule, reader.heights)
            found = reader.report()
            if found.alignment is not None:
                text = one_line(f"{scene.name}: {found.alignment.sentence()}")
                click.echo(text, err=True)
            warnings = [one.text for one in warnings_for(reader, contract, begun.span)]
            for text in warnings:
                click.echo(one_line(f"{scene.name}: warning: {text}"), err=True)
            blocks = grid.blocks(begun.block)
            parts = work.missing(self.resume.shard.parts(blocks, *place))
            report = self._pieces(reader, work, parts, begun.span, label)
            with work.every_piece(blocks) as pieces:
                if pieces is None:
                    return shared_scene(scene.name, report)
                with target:
                    for rows in work.rows(pieces):
                        target.write(rows)
                    low, high = begun.span.low, begun.span.high
                    target.tag(MFNET_DSM_LOW=str(low), MFNET_DSM_HIGH=str(high))
                    if found.image_range:
                        target.tag(MFNET_IMAGE_RANGE=" ".join(map(str, found.image_range)))
                report.total_s = time.perf_counter() - started  # opening and verifying too
                row = finished_row(
                    scene.name, contract.classes.names, report, found, warnings, target
                )
                work.finish(target.fingerprints, row)
        return done_scene(row, outputs, report)

    def _pieces(
        self,
        reader: SceneReader,
        work: SceneWork,
        parts: Sequence[WindowGrid],
        span: DsmRange,
        label: str,
    ) -> SceneReport:
        """Make parts of a scene; what is done of them is on the disk whatever happens.

        Raises:
            SceneError: a raster is damaged, or the model gave NaN or infinity.
        """
        writer = PieceWriter(work.folder, list(work.bands), work.note, self.resume.checkpoint)
        windows = sum(len(part) for part in parts)
        with writer, progress(windows, label, self.quiet) as tick:
            try:
                return segment_scene(
                    self.backend,
                    reader,
                    writer.write,
                    self.options,
                    tick,
                    self.sizes,
                    parts,
                    span,
                )
            except ModelError as fault:  # the other scenes may be fine
                raise SceneError(f"{reader.scene.image}: {fault}") from fault
