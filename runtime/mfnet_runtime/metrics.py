"""Scores of class maps against labels, from one confusion matrix.

Published figures (reference MFNET.md, section 7) come from one matrix over all test scenes:
overall accuracy over every class, mean F1 and mean IoU over the classes of `paper_classes`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mfnet_runtime.errors import SceneError
from mfnet_runtime.labels import IGNORE, ISPRS, ClassTable

CHUNK = 1 << 20  # pixels counted at a time; bounds the working memory to about 10 MB


@dataclass(frozen=True)
class Scores:
    """Scores of a confusion matrix, in 0..1; nan where there is nothing to score.

    A class without pixels in truth and prediction has nan everywhere and is left out of the means;
    a class present in only one of them counts as 0.
    """

    oa: float  # overall accuracy: correct pixels / all pixels, over all classes
    kappa: float  # Cohen's: (oa - chance) / (1 - chance)
    iou: tuple[float, ...]  # tp / (tp + fp + fn)
    f1: tuple[float, ...]  # 2 tp / (2 tp + fp + fn)
    precision: tuple[float, ...]  # tp / (tp + fp); nan for a class that is never predicted
    recall: tuple[float, ...]  # tp / (tp + fn); nan for a class that is not in the truth
    counted: tuple[int, ...]  # classes in the means
    mean_iou: float
    mean_f1: float
    pixels: int  # number of scored pixels
    unpredicted: int  # labelled pixels without a prediction, not scored

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types; nan becomes None."""
        return {key: _json_safe(value) for key, value in asdict(self).items()}


class ConfusionMatrix:
    """Pixel counts by (true class, predicted class), summed over scenes.

    Attributes:
        counts: (classes, classes) int64; rows are the truth, columns the prediction.
        unpredicted: Labelled pixels whose prediction is nodata (255); not in `counts`.
    """

    def __init__(self, classes: int) -> None:
        self.counts: npt.NDArray[np.int64] = np.zeros((classes, classes), np.int64)
        self.unpredicted = 0

    def add(self, truth: npt.NDArray[np.uint8], prediction: npt.NDArray[np.uint8]) -> None:
        """Count one scene or part of it; pixels whose truth is 255 are not scored.

        Args:
            truth: (row, column) class index.
            prediction: (row, column) class index, 255 for nodata.

        Raises:
            SceneError: shapes or types differ, or an index is out of range; nothing is counted.
        """
        if truth.shape != prediction.shape:
            raise SceneError(
                f"label is {truth.shape[1]} x {truth.shape[0]} px and class map "
                f"{prediction.shape[1]} x {prediction.shape[0]}; they must lie on one grid"
            )
        if truth.dtype != np.uint8 or prediction.dtype != np.uint8:
            raise SceneError(
                f"label is {truth.dtype} and class map {prediction.dtype}; expected uint8"
            )
        # Counting all 256 x 256 pairs needs no mask: ignored, unpredicted and invalid pixels are
        # separate rows and columns.
        pairs = np.zeros(1 << 16, np.int64)
        flat_truth, flat_prediction = truth.ravel(), prediction.ravel()
        for start in range(0, flat_truth.size, CHUNK):
            piece = slice(start, start + CHUNK)
            packed = flat_truth[piece].astype(np.uint16) << 8
            pairs += np.bincount(packed | flat_prediction[piece], minlength=1 << 16)
        table = pairs.reshape(256, 256)
        classes = len(self.counts)
        for role, found in (("label", table.sum(1)), ("class map", table.sum(0))):
            if found[classes:IGNORE].any():
                worst = classes + int(np.argmax(found[classes:IGNORE] > 0))
                raise SceneError(
                    f"{role} has class index {worst}; expected 0 to {classes - 1}, or {IGNORE} "
                    "for none"
                )
        self.counts += table[:classes, :classes]
        self.unpredicted += int(table[:classes, IGNORE].sum())

    def merge(self, other: ConfusionMatrix) -> None:
        """Add the counts of another matrix of the same classes.

        Raises:
            SceneError: the numbers of classes differ.
        """
        if other.counts.shape != self.counts.shape:
            raise SceneError(
                f"cannot add matrices of {len(self.counts)} and {len(other.counts)} classes"
            )
        self.counts += other.counts
        self.unpredicted += other.unpredicted

    def scores(self, counted: Sequence[int] | None = None) -> Scores:
        """Compute the scores; `counted` are the classes in the means, by default all."""
        kept = tuple(range(len(self.counts))) if counted is None else tuple(counted)
        correct = np.diag(self.counts).astype(np.float64)
        true = self.counts.sum(1).astype(np.float64)
        predicted = self.counts.sum(0).astype(np.float64)
        total = float(true.sum())
        oa = _ratio(float(correct.sum()), total)
        chance = _ratio(float(true @ predicted), total * total)
        iou = _ratios(correct, true + predicted - correct)
        f1 = _ratios(2 * correct, true + predicted)
        return Scores(
            oa=oa,
            kappa=_ratio(oa - chance, 1 - chance),
            iou=iou,
            f1=f1,
            precision=_ratios(correct, predicted),
            recall=_ratios(correct, true),
            counted=kept,
            mean_iou=_mean(iou, kept),
            mean_f1=_mean(f1, kept),
            pixels=int(total),
            unpredicted=self.unpredicted,
        )


def paper_classes(classes: ClassTable) -> tuple[int, ...]:
    """Return the classes in the published means: all, but for ISPRS without clutter."""
    return tuple(range(5 if classes.names == ISPRS.names else len(classes)))


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan


def _ratios(parts: npt.NDArray[np.float64], wholes: npt.NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(_ratio(float(p), float(w)) for p, w in zip(parts, wholes, strict=True))


def _mean(values: tuple[float, ...], kept: tuple[int, ...]) -> float:
    known = [values[index] for index in kept if not math.isnan(values[index])]
    return _ratio(math.fsum(known), len(known))


def _json_safe(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_json_safe(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
