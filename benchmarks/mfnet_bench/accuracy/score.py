"""Score models, strides and blendings on labelled scenes: one confusion matrix each.

Each is run as `mfnet-run` runs it, without writing the class map; with several rounds they take
turns, and the run of median time counts.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mfnet.data.datasets import Dataset, dataset_from_folder, dataset_from_layout
from mfnet.data.label_checks import odd_labels
from mfnet.data.labels import Labels
from mfnet.data.scenes import open_labelled_scenes, open_scene, warn_about_scenes
from mfnet.training.evaluate import Evaluation, evaluate
from mfnet_runtime.backends import RUNS, Backend, backend_from_file
from mfnet_runtime.console import progress
from mfnet_runtime.contract import Contract
from mfnet_runtime.errors import ModelError, SceneError, UsageError
from mfnet_runtime.labels import IGNORE, ClassTable
from mfnet_runtime.metrics import Scores, paper_classes
from mfnet_runtime.scene.discovery import Scene
from mfnet_runtime.scene.options import ReadOptions
from mfnet_runtime.scene.reader import DEFAULT_OPTIONS
from mfnet_runtime.tiling.options import PUBLISHED, SegmentOptions
from mfnet_runtime.tiling.pipeline import Tick

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class AccuracyRequest:
    """Models, scenes and settings to score.

    Raises:
        UsageError: Options that exclude each other, or fewer than 1 round.
    """

    models: tuple[Path, ...]
    scenes: Path
    dataset: str | None = None  # layout of a benchmark; None: image/ dsm/ label/
    only: tuple[str, ...] = ()
    read: ReadOptions = DEFAULT_OPTIONS  # how to read scenes; `dataset` fixes some of it
    mean_over: tuple[int, ...] = ()  # class indices the means are taken over; none: all
    paper: bool = False  # the published protocol: its stride, its sum of logits, its mean
    strides: tuple[int, ...] = ()  # pixels; none: half a window
    blends: tuple[str, ...] = ()  # none: the default of mfnet-run
    batch: int = 4
    backend: str = "auto"
    threads: int | None = None  # None: the backend's own
    rounds: int = 1  # runs of each model, stride and blending

    def __post_init__(self) -> None:
        if self.dataset is not None and self.only:
            raise UsageError("--dataset fixes the scenes; leave --only out")
        if self.paper and (self.strides or self.blends):
            raise UsageError("--paper fixes stride and blending; leave --stride and --blend out")
        if self.rounds < 1:
            raise UsageError(f"--rounds is {self.rounds}; expected at least 1")

    def options(self, dataset: Dataset, window: int) -> list[SegmentOptions]:
        """Return every stride with every blending, in the order asked for.

        Raises:
            UsageError: A stride is not in 1..window, or a blending is unknown.
        """
        if self.paper:
            stride = min(dataset.test_stride, window)
            return [SegmentOptions(stride, batch=self.batch, preprocess="cpu", protocol=PUBLISHED)]
        blends: tuple[Any, ...] = self.blends or (None,)  # SegmentOptions refuses unknown ones
        found = [
            SegmentOptions(stride, blend, self.batch)
            for stride in self.strides or (None,)
            for blend in blends
        ]
        for options in found:
            options.grid(window, window, window)
        return found

    def open_dataset(self, contract: Contract) -> Dataset:
        """Return the labelled scenes.

        Raises:
            UsageError: Scenes or labels are missing, or the model states no pixel size to resample
                to.
        """
        found = self._find_dataset(contract.classes)
        read = found.read.for_model(contract)
        return replace(found, read=read, stray=0 if self.paper else IGNORE)

    def _find_dataset(self, classes: ClassTable) -> Dataset:
        if self.dataset is not None:
            return dataset_from_layout(self.dataset, self.scenes, self.read)
        return dataset_from_folder(self.scenes, only=self.only, classes=classes, read=self.read)

    def counted(self, classes: ClassTable) -> tuple[int, ...]:
        """Return the classes that means are taken over.

        Raises:
            UsageError: An index is not one of the model's classes.
        """
        if not self.mean_over:
            return (paper_classes(classes) if self.paper else None) or tuple(range(len(classes)))
        if not set(self.mean_over) <= set(range(len(classes))):
            raise UsageError(
                f"--mean-over {','.join(map(str, self.mean_over))}: expected class indices from 0 "
                f"to {len(classes) - 1}, for example 0,1"
            )
        return self.mean_over


@dataclass(frozen=True)
class AccuracyRow:
    """The result of one model at one stride and blending."""

    model: str
    backend: str
    device: str
    stride: int  # pixels
    blend: str
    scores: Scores
    agreement: float  # share of pixels with the class of the first row
    windows: int
    windows_per_s: float  # inside the backend
    outside_backend: float  # share of the time not spent in the backend
    seconds: float  # of all scenes: reading, inference, blending; median of the rounds
    mpx_per_s: float  # million pixels of scene per second

    def to_dict(self, classes: ClassTable) -> dict[str, Any]:
        """Return plain JSON types."""
        facts = {name: value for name, value in vars(self).items() if name != "scores"}
        return {**facts, "classes": list(classes.names), **self.scores.to_dict()}


def score_models(request: AccuracyRequest) -> tuple[ClassTable, list[AccuracyRow]]:
    """Run every model over every scene, at every stride and blending.

    Raises:
        UsageError: Models, scenes or labels are missing, or an option is out of range.
        ModelError: A model cannot be loaded, or models differ in the number of classes, or in the
            pixel size to resample to.
        SceneError: A scene is damaged or does not fit, or no label has a class that counts.
    """
    rows: list[AccuracyRow] = []
    reference: dict[str, Labels] = {}  # class maps of the first row by scene
    classes: ClassTable | None = None
    sizes = set()  # at which scenes are read
    for path in request.models:
        with open_model(path, request.threads, request.backend) as backend:
            found = backend.contract.classes
            classes = classes or found
            if len(found) != len(classes):
                raise ModelError(
                    f"{path}: has {len(found)} classes, {request.models[0].name} has "
                    f"{len(classes)}; compare models of the same classes"
                )
            sizes.add(request.read.for_model(backend.contract).resample_to)
            if len(sizes) > 1:
                raise ModelError(
                    f"{path}: was trained on {backend.contract.pixel_size:g} m, "
                    f"{request.models[0].name} on another pixel size; give one for both with "
                    "--resample-to"
                )
            rows += _score_model(request, path, backend, reference)
    assert classes is not None  # click asks for one model at least
    return classes, rows


def _score_model(
    request: AccuracyRequest, path: Path, backend: Backend, reference: dict[str, Labels]
) -> list[AccuracyRow]:
    """Return the rows of a model; `reference` is filled by the first one."""
    contract = backend.contract
    dataset = request.open_dataset(contract)
    if not reference:
        for text in odd_labels(dataset):
            logger.warning("%s", text)
        warn_about_scenes(_scenes_of(dataset), dataset, contract)
    settings = request.options(dataset, contract.window)
    counted = request.counted(contract.classes)
    sizes = scene_sizes(dataset, contract.image.full_scale)
    # Engines are slow at first: where times are compared, a run that does not count goes ahead.
    warm_up = settings[-1:] if len(settings) * request.rounds > 1 else []
    to_run = [*warm_up, *settings * request.rounds]
    total = sum(len(options.grid(*size, contract.window)) for options in to_run for size in sizes)
    runs: dict[SegmentOptions, list[Evaluation]] = {options: [] for options in settings}
    same: dict[SegmentOptions, float] = {}
    with progress(total, path.name) as tick:
        for options in warm_up:
            run_scenes(backend, dataset, options, tick)
        for options in settings * request.rounds:
            result, maps = run_scenes(backend, dataset, options, tick)
            if not np.any(result.matrix.counts.sum(1)[list(counted)]):
                raise SceneError(
                    f"{request.scenes}: no pixel of the labels has a class that the mean is taken "
                    f"over ({', '.join(map(str, counted))}); check label/ and --mean-over"
                )
            if not reference:
                reference.update(maps)
            same.setdefault(options, agreement(reference, maps))
            runs[options].append(result)
    pixels = sum(height * width for height, width in sizes)
    names = [other.name for other in request.models]
    rows = []
    for options in settings:
        result = _median_run(runs[options])
        rows.append(
            AccuracyRow(
                model=path.name if names.count(path.name) == 1 else str(path),
                backend=backend.name,
                device=backend.device,
                stride=options.stride_for(contract.window),
                blend=options.sum,
                scores=result.matrix.scores(counted),
                agreement=same[options],
                windows=result.windows,
                windows_per_s=result.windows / result.backend_s if result.backend_s else 0.0,
                outside_backend=1 - result.backend_s / result.total_s,
                seconds=result.total_s,
                mpx_per_s=pixels / 1e6 / result.total_s,
            )
        )
    return rows


def open_model(path: Path, threads: int | None = None, backend: str = "auto") -> Backend:
    """Open a checkpoint in PyTorch, anything else in the runtime's backend for it.

    Raises:
        UsageError: No such file or backend.
        ModelError: The file is damaged, or no backend runs it.
    """
    if not is_checkpoint(path) or backend != "auto":
        return backend_from_file(path, backend, threads=threads or 0)
    import torch

    from mfnet.checkpoints.checkpoint import load_checkpoint, network_from_checkpoint
    from mfnet.model.torch_backend import TorchBackend

    if threads:
        torch.set_num_threads(threads)
    checkpoint = load_checkpoint(path)
    return TorchBackend(network_from_checkpoint(checkpoint), checkpoint.contract)


def is_checkpoint(path: Path) -> bool:
    """Tell a checkpoint, which may have any suffix or none, from a file that a backend runs."""
    return path.suffix.lower() not in {suffix for suffix, _ in RUNS}


def run_scenes(
    backend: Backend, dataset: Dataset, options: SegmentOptions, tick: Tick
) -> tuple[Evaluation, dict[str, Labels]]:
    """Segment and score every scene; return the evaluation and the class maps by scene.

    Raises:
        SceneError: A scene is damaged or a label is out of range.
    """
    opened = open_labelled_scenes(_scenes_of(dataset), dataset, backend.contract.image.full_scale)
    maps: dict[str, Labels] = {}
    return evaluate(backend, opened, options, tick, maps), maps


def scene_sizes(dataset: Dataset, full_scale: float) -> list[tuple[int, int]]:
    """Return (rows, columns) of each scene.

    Raises:
        SceneError: A scene is damaged or does not fit the model.
    """
    sizes = []
    for scene in _scenes_of(dataset):
        with open_scene(scene, dataset, full_scale) as reader:
            sizes.append((reader.height, reader.width))
    return sizes


def agreement(first: Mapping[str, Labels], other: Mapping[str, Labels]) -> float:
    """Return the share of the pixels with data that have the same class in both sets of maps."""
    same = total = 0
    for name, classes in first.items():
        known = classes != IGNORE
        same += int(np.count_nonzero((classes == other[name]) & known))
        total += int(np.count_nonzero(known))
    return same / total if total else 1.0


def _scenes_of(dataset: Dataset) -> list[Scene]:
    """Return the scenes to score; those of a plain folder are all listed as `train`."""
    return dataset.test or dataset.train


def _median_run(runs: list[Evaluation]) -> Evaluation:
    """Return the run of median time, the faster of two; their scores are all the same."""
    return sorted(runs, key=lambda run: run.total_s)[(len(runs) - 1) // 2]
