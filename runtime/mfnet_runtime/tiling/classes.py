"""Logits to classes, confidence and probabilities, as bytes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from mfnet_runtime.errors import ModelError
from mfnet_runtime.labels import IGNORE
from mfnet_runtime.scene.normalize import BoolArray

ClassRows = npt.NDArray[np.uint8]
Logits = npt.NDArray[np.floating[Any]]  # float32, or float64 of the published protocol

NOT_FINITE = "the model gave logits that are not finite; check it with mfnet-inspect"
PIXELS_AT_A_TIME = 1 << 16  # their intermediate values stay in a core's cache


@dataclass(frozen=True)
class FinishedRows:
    """Rows of a block of columns, uint8, 255 where there is no class; owned by the receiver."""

    classes: ClassRows  # (row, column)
    confidence: ClassRows | None = None  # (row, column), percent
    probabilities: ClassRows | None = None  # (class, row, column), percent
    place: tuple[int, int] = (0, 0)  # scene row and column of the first pixel

    def within(self, rows: range) -> FinishedRows:
        """Return those inside a range of scene rows."""
        first = self.place[0]
        if rows.start <= first and first + len(self.classes) <= rows.stop:
            return self
        kept = slice(max(rows.start - first, 0), max(rows.stop - first, 0))
        return replace(
            self,
            classes=self.classes[kept],
            confidence=None if self.confidence is None else self.confidence[kept],
            probabilities=None if self.probabilities is None else self.probabilities[:, kept],
            place=(max(first, rows.start), self.place[1]),
        )


def classify(
    logits: Logits,
    valid: BoolArray,
    *,
    confidence: bool = False,
    probabilities: bool = False,
    place: tuple[int, int] = (0, 0),
) -> FinishedRows:
    """Take the arg max of blended logits and, if asked for, percent probabilities.

    Args:
        logits: (classes, row, column).
        valid: (row, column); all outputs are 255 elsewhere.
        confidence: Return the probability of each pixel's class.
        probabilities: Return the probabilities of all classes.
        place: Scene row and column of the first pixel.

    Raises:
        ModelError: a logit is NaN or infinite.
    """
    classes = np.empty(valid.shape, np.uint8)
    percent = np.empty_like(classes) if confidence else None
    percents = np.empty(logits.shape, np.uint8) if probabilities else None
    step = max(PIXELS_AT_A_TIME // valid.shape[1], 1)
    for top in range(0, len(valid), step):
        rows = slice(top, top + step)
        some, known = logits[:, rows], valid[rows]
        classes[rows] = classes_from_logits(some, known)
        if percent is not None:
            percent[rows] = confidence_from_logits(some, known)
        if percents is not None:
            percents[:, rows] = probabilities_from_logits(some, known)
    return FinishedRows(classes, percent, percents, place)


def classes_from_logits(logits: Logits, valid: BoolArray) -> ClassRows:
    """Class of the largest logit, the first of equal ones; 255 where not valid.

    Args:
        logits: (classes, row, column).
        valid: (row, column).

    Returns:
        (row, column) uint8.

    Raises:
        ModelError: a logit is NaN or infinite.
    """
    if not np.isfinite(logits).all():  # a comparison would turn NaN into class 0
        raise ModelError(NOT_FINITE)
    # np.argmax over the first axis takes 4 times as long: it reads memory out of order
    largest = logits[0].copy()
    classes = np.zeros(valid.shape, np.uint8)
    for index, plane in enumerate(logits[1:], start=1):
        higher = (plane > largest).view(np.uint8)
        np.maximum(classes, higher * np.uint8(index), out=classes)
        np.maximum(largest, plane, out=largest)
    np.copyto(classes, np.uint8(IGNORE), where=~valid)
    return classes


def confidence_from_logits(logits: Logits, valid: BoolArray) -> ClassRows:
    """Softmax probability of the class of `classes_from_logits`; 255 where not valid.

    Args:
        logits: (classes, row, column), finite.
        valid: (row, column).

    Returns:
        (row, column) uint8, percent.
    """
    percent: ClassRows = np.rint(np.float32(100.0) / _softmax_terms(logits)[1]).astype(np.uint8)
    np.copyto(percent, np.uint8(IGNORE), where=~valid)
    return percent


def probabilities_from_logits(logits: Logits, valid: BoolArray) -> ClassRows:
    """Softmax probability of every class; 255 where not valid.

    Args:
        logits: (classes, row, column), finite.
        valid: (row, column).

    Returns:
        (classes, row, column) uint8, percent, each rounded, so that they need not add up to 100.
    """
    largest, total = _softmax_terms(logits)
    percent = np.empty(logits.shape, np.uint8)
    for plane, target in zip(logits, percent, strict=True):
        share = np.exp(plane - largest) * np.float32(100.0) / total
        np.rint(share, out=target, casting="unsafe")
        np.copyto(target, np.uint8(IGNORE), where=~valid)
    return percent


def _softmax_terms(logits: Logits) -> tuple[Logits, Logits]:
    """The largest logit, and the sum of exp(logit - largest), both (row, column)."""
    largest = logits.max(axis=0)
    total = np.zeros_like(largest)
    for plane in logits:
        total += np.exp(plane - largest)
    return largest, total
