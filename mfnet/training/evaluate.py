"""Score a backend on labelled scenes by sliding window. Knows no torch: any backend will do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from mfnet.data.datasets import Dataset
from mfnet.data.scene_data import Labels, label_of, opened_scene
from mfnet_runtime.backends.base import Backend
from mfnet_runtime.metrics import ConfusionMatrix
from mfnet_runtime.scene.discovery import Scene
from mfnet_runtime.tiling.classes import FinishedRows
from mfnet_runtime.tiling.pipeline import RowSource, SegmentOptions, Tick, segment_scene


@dataclass(frozen=True)
class LabelledScene:
    """A scene to score."""

    name: str
    pixels: RowSource
    label: Labels  # (row, column)


def labelled_scenes(
    scenes: Iterable[Scene], dataset: Dataset, full_scale: float
) -> Iterator[LabelledScene]:
    """Scenes to score, opened one at a time.

    Args:
        scenes: Of the dataset.
        dataset: Says how they are read and what their labels mean.
        full_scale: Of the images, as the model's contract has it.

    Raises:
        SceneError: a raster or label is missing or damaged, or a label is out of range.
    """
    for scene in scenes:
        with opened_scene(scene, dataset, full_scale) as reader:
            yield LabelledScene(scene.name, reader, label_of(scene, dataset, reader))


@dataclass
class Evaluation:
    """One confusion matrix over all scenes, and the seconds spent."""

    matrix: ConfusionMatrix
    backend_s: float = 0.0
    total_s: float = 0.0
    windows: int = 0


def evaluated(
    backend: Backend,
    scenes: Iterable[LabelledScene],
    options: SegmentOptions,
    tick: Tick = lambda done: None,
    keep: dict[str, Labels] | None = None,
) -> Evaluation:
    """Segment every scene and count it against its label.

    Args:
        backend: Entered.
        scenes: May be lazy: one is held at a time.
        options: Stride, blending, batch.
        tick: Told how many windows were just done.
        keep: Filled with the class map of each scene, for comparison with another backend.

    Raises:
        SceneError: a raster is damaged or a label is out of range.
    """
    result = Evaluation(ConfusionMatrix(len(backend.contract.classes)))
    for scene in scenes:
        classes = np.empty_like(scene.label)
        report = segment_scene(backend, scene.pixels, partial(_put, classes), options, tick)
        result.matrix.add(scene.label, classes)
        result.backend_s += report.backend_s
        result.total_s += report.total_s
        result.windows += report.windows
        if keep is not None:
            keep[scene.name] = classes
    return result


def _put(classes: Labels, done: FinishedRows) -> None:
    """Rows into the class map of their scene."""
    row, column = done.place
    rows, columns = done.classes.shape
    classes[row : row + rows, column : column + columns] = done.classes
