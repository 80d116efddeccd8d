"""Segment many scenes with one model: plan tasks, do them, record what is done, finish the outputs.

An executor does the tasks, of several scenes at a time if it has workers for them. Planning,
recording and finishing are done here. A scene that fails is reported, and the others still run.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mfnet_runtime.backends.base import Backend
from mfnet_runtime.console import progress
from mfnet_runtime.errors import SceneError
from mfnet_runtime.files import FileDigest
from mfnet_runtime.network.file import RemoteError
from mfnet_runtime.network.upload import Bucket
from mfnet_runtime.raster.geotiff import Block
from mfnet_runtime.raster.vectors import require_format
from mfnet_runtime.run.executors.base import LOCAL, Executor
from mfnet_runtime.run.finish import finish_scene, row_of
from mfnet_runtime.run.inputs import InputChangedError
from mfnet_runtime.run.manifest import Manifest
from mfnet_runtime.run.options import NO_VECTORS, REFUSE_UNFINISHED, ResumeOptions, VectorOptions
from mfnet_runtime.run.outputs import OutputPaths, require_places
from mfnet_runtime.run.plan import ScenePlan, plan_scene
from mfnet_runtime.run.provenance import provenance_tags, run_settings
from mfnet_runtime.run.task import Receipt, Task
from mfnet_runtime.scene.discovery import Scene
from mfnet_runtime.scene.options import ReadOptions
from mfnet_runtime.scene.reader import DEFAULT_OPTIONS
from mfnet_runtime.tiling.batch_size import BatchSize
from mfnet_runtime.tiling.pipeline import SceneReport, SegmentOptions, Tick

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SceneOutcome:
    """The outcome of a scene."""

    row: dict[str, Any]  # of the JSON summary; plain JSON types
    report: SceneReport | None = None  # of the blocks done by this process

    @property
    def failed(self) -> bool:
        """The scene has no outputs of this run, or they were not uploaded."""
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
    executor: Executor = LOCAL,
    bucket: Bucket | None = None,
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
        executor: Does the tasks; the outputs are the same with any.
        bucket: Where finished outputs are copied to.

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
    places = list(zip(scenes, outputs, strict=True))
    with Manifest(folder, settings, resume, names) as manifest:
        run = Run(backend, options, read, vectors, tags, sizes, manifest, places, bucket)
        with (
            run.progress(executor, quiet or tick is not None) as show,
            closing(executor.run(run.tasks(), backend, sizes, tick or show)) as done,
        ):
            for task, result in done:
                run.take(task, result)
        manifest.end()
    if options.batch == "auto" and executor is LOCAL:
        how = "the fastest by timing" if sizes.timed else "too few windows to time others"
        logger.info("batch %d, %s", sizes.chosen, how)
    return [run.outcomes[name] for name in names]


@dataclass
class Begun:
    """A scene of which tasks are missing."""

    plan: ScenePlan
    paths: OutputPaths
    blocks: list[Block]
    missing: int  # tasks
    report: SceneReport
    started: float


@dataclass
class Run:
    """The state of a run: what its scenes share, and their outcomes so far."""

    backend: Backend
    options: SegmentOptions
    read: ReadOptions
    vectors: VectorOptions
    tags: Mapping[str, str]
    sizes: BatchSize
    manifest: Manifest
    scenes: Sequence[tuple[Scene, OutputPaths]]
    bucket: Bucket | None
    begun: dict[str, Begun] = field(default_factory=dict)
    outcomes: dict[str, SceneOutcome] = field(default_factory=dict)
    planned: int = 0  # scenes
    windows: int = 0  # of planned tasks
    receipts: int = 0

    def tasks(self) -> Iterator[Task]:
        """Plan scenes, one when the tasks of the last are taken; yield tasks not done before."""
        for scene, paths in self.scenes:
            tasks: list[Task] = []
            with self._may_fail(scene):
                tasks = self._begin(scene, paths)
            self.planned += 1
            for task in tasks:
                if scene.name in self.outcomes:  # it has failed
                    break
                yield task

    def _begin(self, scene: Scene, paths: OutputPaths) -> list[Task]:
        started = time.perf_counter()
        manifest = self.manifest
        paths.require_short_names()
        addresses = self.bucket.addresses(paths.all) if self.bucket else []
        done = manifest.find_done(scene, paths)
        if done is not None:
            files, row = done
            if self.bucket and row.get("uploaded") != addresses:
                self._record(scene, paths, files, row)
            row = {**row, **paths.to_json(), "resumed": True}
            self.outcomes[scene.name] = SceneOutcome(row)
            return []
        plan = plan_scene(
            scene,
            self.backend.contract,
            self.options,
            self.read,
            settings=manifest.digest,
            folder=manifest.work_folder(scene.name),
            batch=self.sizes.largest,
            known=manifest.known_inputs(scene.name),
        )
        paths.require_polygons_possible(plan.place, plan.shape[0], self.vectors)
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
        windows = sum(len(task.grid) for task in tasks)
        report = SceneReport(plan.span, windows, len(tasks), batch=self.sizes.chosen)
        self.windows += windows
        self.begun[scene.name] = Begun(plan, paths, blocks, len(tasks), report, started)
        if not tasks:
            self._finish(self.begun.pop(scene.name))
        return tasks

    def take(self, task: Task, result: Receipt | SceneError) -> None:
        """Record what became of a task; finish its scene after the last one."""
        scene = self.begun.get(task.scene.name)
        if scene is None:  # it has failed
            return
        with self._may_fail(task.scene):
            if isinstance(result, SceneError):
                raise result
            self.manifest.record(result)
            self.receipts += 1
            scene.blocks.append(result.block)
            scene.report.skipped += result.report.skipped
            scene.report.backend_s += result.report.backend_s
            scene.report.batch = result.report.batch
            scene.missing -= 1
            if not scene.missing:
                self._finish(self.begun.pop(task.scene.name))

    def _finish(self, scene: Begun) -> None:
        plan, report, classes = scene.plan, scene.report, self.backend.contract.classes
        files, areas = finish_scene(
            plan, scene.blocks, scene.paths, classes, self.vectors, self.tags
        )
        report.total_s = time.perf_counter() - scene.started
        row = row_of(plan, classes, areas, report)
        self._record(plan.scene, scene.paths, files, row)
        row = {**row, **scene.paths.to_json(), "resumed": False}
        self.outcomes[plan.scene.name] = SceneOutcome(row, report)

    def _record(
        self,
        scene: Scene,
        paths: OutputPaths,
        files: Mapping[str, FileDigest],
        row: dict[str, Any],
    ) -> None:
        """Record a scene as done, once its files are in the bucket, if there is one."""
        if self.bucket is not None:
            row["uploaded"] = self.bucket.upload(paths.all, files)
        self.manifest.record_done(scene.name, files, row)

    @contextmanager
    def _may_fail(self, scene: Scene) -> Iterator[None]:
        try:
            yield
        except SceneError as fault:
            logger.error("%s", fault)
            self.begun.pop(scene.name, None)
            if not isinstance(fault, InputChangedError | RemoteError):  # else its blocks are kept
                self.manifest.record_failed(scene.name, str(fault))
            row = {"scene": scene.name, "status": "failed", "error": str(fault)}
            self.outcomes[scene.name] = SceneOutcome(row)

    @contextmanager
    def progress(self, executor: Executor, quiet: bool) -> Iterator[Callable[[int], None]]:
        """Show windows done of those expected: scenes to come are taken to be like the others."""
        total = len(self.scenes)
        label = self.scenes[0][0].name if total == 1 else f"{total} scenes"
        with progress(0, label, quiet) as show:

            def tick(done: int) -> None:
                note = f"{self.receipts} blocks and {len(self.outcomes)} scenes done"
                if executor.workers > 1:
                    note += f", {executor.workers} workers"
                show(done, note, round(self.windows * total / self.planned))

            yield tick
