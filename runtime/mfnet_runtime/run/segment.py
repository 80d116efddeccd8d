"""Segment many scenes with one model: plan tasks, do them, record what is done, finish the outputs.

A scene that fails is reported, and the others still run.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mfnet_runtime.backends.base import Backend
from mfnet_runtime.console import progress
from mfnet_runtime.errors import SceneError
from mfnet_runtime.raster.vectors import require_format
from mfnet_runtime.run.finish import finish_scene, row_of
from mfnet_runtime.run.inputs import InputChangedError
from mfnet_runtime.run.manifest import Manifest
from mfnet_runtime.run.options import NO_VECTORS, REFUSE_UNFINISHED, ResumeOptions, VectorOptions
from mfnet_runtime.run.outputs import OutputPaths, require_places
from mfnet_runtime.run.plan import plan_scene
from mfnet_runtime.run.provenance import provenance_tags, run_settings
from mfnet_runtime.run.task import Receipt, Task, do
from mfnet_runtime.scene.discovery import Scene
from mfnet_runtime.scene.options import ReadOptions
from mfnet_runtime.scene.reader import DEFAULT_OPTIONS
from mfnet_runtime.tiling.batch_size import BatchSize
from mfnet_runtime.tiling.pipeline import SceneReport, SegmentOptions, Tick

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SceneOutcome:
    """What became of a scene."""

    row: dict[str, Any]  # of the JSON summary; plain JSON types
    report: SceneReport | None = None  # of the blocks done by this process

    @property
    def failed(self) -> bool:
        """The scene has no outputs of this run."""
        return bool(self.row["status"] == "failed")

    @property
    def error(self) -> str | None:
        """Why it failed."""
        return self.row.get("error")


def segment_scenes(
    backend: Backend,
    scenes: Sequence[Scene],
    folder: Path,
    options: SegmentOptions,
    read: ReadOptions = DEFAULT_OPTIONS,
    vectors: VectorOptions = NO_VECTORS,
    *,
    resume: ResumeOptions = REFUSE_UNFINISHED,
    tags: Mapping[str, str] | None = None,
    quiet: bool = False,
    tick: Tick | None = None,
) -> list[SceneOutcome]:
    """Write `folder/NAME.tif`, and the other outputs asked for, for every scene.

    Args:
        backend: Entered.
        scenes: What to segment.
        folder: Created if missing.
        options: How to segment.
        read: How to read scenes.
        vectors: Polygons to make too.
        resume: What to do with an unfinished run in `folder`.
        tags: Provenance for all outputs, in addition to what the backend and the options say.
        quiet: Show no progress.
        tick: Called with the number of windows just inferred or skipped, in place of showing
            progress; an exception that it raises ends the run.

    Raises:
        UsageError: `folder` holds inputs, is a file, or has a folder in place of an output; outputs
            of two scenes would have the same name; the backend does not take the batch; or the run
            in `folder` is in use, unfinished or of other settings; or the model states no pixel
            size to resample to.
        ResourceError: the disk is full, the folder cannot be written, or the backend lacks the
            memory for the batch.
        ModuleNotFoundError: polygons are asked for, and the extra for them is not installed.
    """
    read = read.for_model(backend.contract)
    sizes = BatchSize(options.batch, backend.batches)  # a batch found by timing serves all scenes
    if vectors.vectors:
        require_format(vectors.vectors, bool(vectors.simplify))
    outputs = [OutputPaths.of(folder, scene.name, options, vectors) for scene in scenes]
    require_places(scenes, outputs, folder)
    settings = run_settings(backend, options, read, vectors, tags or {}, scenes)
    tags = {**provenance_tags(backend, options, read), **(tags or {})}
    names = [scene.name for scene in scenes]
    outcomes = []
    with Manifest(folder, settings, resume, names) as manifest:
        run = Run(backend, options, read, vectors, tags, sizes, manifest, quiet, tick)
        for number, (scene, paths) in enumerate(zip(scenes, outputs, strict=True), start=1):
            try:
                outcome = segment_one(run, scene, paths, f"{scene.name} ({number}/{len(scenes)})")
            except SceneError as fault:
                logger.error("%s", fault)
                if not isinstance(fault, InputChangedError):
                    manifest.record_failed(scene.name, str(fault))
                row = {"scene": scene.name, "status": "failed", "error": str(fault)}
                outcome = SceneOutcome(row)
            outcomes.append(outcome)
        manifest.end()
    if options.batch == "auto":
        how = "the fastest by timing" if sizes.timed else "too few windows to time others"
        logger.info("batch %d, %s", sizes.chosen, how)
    return outcomes


@dataclass(frozen=True)
class Run:
    """What all scenes of a run share."""

    backend: Backend
    options: SegmentOptions
    read: ReadOptions
    vectors: VectorOptions
    tags: Mapping[str, str]
    sizes: BatchSize
    manifest: Manifest
    quiet: bool
    tick: Tick | None


def segment_one(run: Run, scene: Scene, paths: OutputPaths, label: str) -> SceneOutcome:
    """Plan a scene, do the tasks that were not done before, record them, and finish the scene.

    Raises:
        SceneError: the scene cannot be read, or its outputs cannot be made.
    """
    started = time.perf_counter()
    manifest, contract = run.manifest, run.backend.contract
    paths.require_short_names()
    done = manifest.find_done(scene, paths)
    if done is not None:
        return SceneOutcome({**done, **paths.to_json(), "resumed": True})

    plan = plan_scene(
        scene,
        contract,
        run.options,
        run.read,
        settings=manifest.digest,
        folder=manifest.work_folder(scene.name),
        batch=run.sizes.largest,
        known=manifest.known_inputs(scene.name),
    )
    paths.require_polygons_possible(plan.place, plan.shape[0], run.vectors)
    manifest.record_inputs(scene.name, plan.inputs)
    if plan.read.alignment is not None:
        logger.info("%s: %s", scene.name, plan.read.alignment.sentence())
    if plan.read.scaling is not None and plan.read.scaling.changes:
        logger.info("%s: %s", scene.name, plan.read.scaling.sentence())
    for warning in plan.warnings:
        logger.warning("%s: %s", scene.name, warning)

    blocks = [block for task in plan.tasks if (block := manifest.find_block(task))]
    there = {block.path for block in blocks}
    tasks = [task for task in plan.tasks if task.path not in there]
    report = SceneReport(plan.span, sum(len(task.grid) for task in tasks), len(tasks))
    for receipt in do_all(tasks, run, label):
        manifest.record(receipt)
        blocks.append(receipt.block)
        report.skipped += receipt.report.skipped
        report.backend_s += receipt.report.backend_s

    files, areas = finish_scene(plan, blocks, paths, contract.classes, run.vectors, run.tags)
    report.batch, report.total_s = run.sizes.chosen, time.perf_counter() - started
    row = row_of(plan, contract.classes, areas, report)
    manifest.record_done(scene.name, files, row)
    return SceneOutcome({**row, **paths.to_json(), "resumed": False}, report)


def do_all(tasks: Sequence[Task], run: Run, label: str) -> Iterator[Receipt]:
    """Do tasks one after the other in this process; their receipts may come in any order."""
    windows = sum(len(task.grid) for task in tasks)
    with nullcontext(run.tick) if run.tick else progress(windows, label, run.quiet) as tick:
        for task in tasks:
            yield do(task, run.backend, run.sizes, tick)
