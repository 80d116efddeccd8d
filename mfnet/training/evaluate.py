"""Score a backend on labelled scenes by sliding window; any backend will do."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from mfnet.data.labels import Labels
from mfnet.data.scenes import LabelledScene
from mfnet_runtime.backends.base import Backend
from mfnet_runtime.metrics import ConfusionMatrix
from mfnet_runtime.tiling.classes import FinishedRows
from mfnet_runtime.tiling.pipeline import SegmentOptions, Tick, segment_scene


@dataclass
class Evaluation:
    """One confusion matrix over all scenes, and the time spent."""

    matrix: ConfusionMatrix
    backend_s: float = 0.0
    total_s: float = 0.0
    windows: int = 0


def evaluate(
    backend: Backend,
    scenes: Iterable[LabelledScene],
    options: SegmentOptions,
    tick: Tick = lambda done: None,
    keep: dict[str, Labels] | None = None,
) -> Evaluation:
    """Segment every scene and compare it with its label.

    Args:
        backend: Entered.
        scenes: May be lazy: one is held at a time.
        options: Stride, blending, batch.
        tick: Called with the number of windows just done.
        keep: Filled with the class map of each scene, for comparison with another backend.

    Raises:
        SceneError: A raster is damaged or a label is out of range.
    """
    result = Evaluation(ConfusionMatrix(len(backend.contract.classes)))
    for scene in scenes:
        classes = np.empty_like(scene.label)

        def put(rows: FinishedRows, classes: Labels = classes) -> None:
            (top, left), (height, width) = rows.place, rows.classes.shape
            classes[top : top + height, left : left + width] = rows.classes

        report = segment_scene(backend, scene.source, put, options, tick)
        result.matrix.add(scene.label, classes)
        result.backend_s += report.backend_s
        result.total_s += report.total_s
        result.windows += report.windows
        if keep is not None:
            keep[scene.name] = classes
    return result
