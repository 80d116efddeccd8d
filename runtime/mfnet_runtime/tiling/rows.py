"""What comes out for some rows of a scene: classes and, if asked for, how sure the network is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mfnet_runtime.tiling.blend import (
    BoolArray,
    ClassRows,
    FloatArray,
    classes_from_logits,
    confidence_from_logits,
    probabilities_from_logits,
)

PASSING = 1 << 16  # pixels worked on at a time: what is made of them stays in a core's cache


@dataclass(frozen=True)
class Layers:
    """What is asked for besides classes."""

    confidence: bool = False  # probability of each pixel's class
    probabilities: bool = False  # of every class; not made on a GPU


CLASSES_ALONE = Layers()


@dataclass(frozen=True)
class FinishedRows:
    """Rows of a block of columns, uint8, 255 where there is no class; the receiver's to keep."""

    classes: ClassRows  # (row, column)
    confidence: ClassRows | None = None  # (row, column), percent
    probabilities: ClassRows | None = None  # (class, row, column), percent
    place: tuple[int, int] = (0, 0)  # scene row and column of the first pixel

    def within(self, rows: range) -> FinishedRows:
        """Those of some scene rows."""
        first = self.place[0]
        stop = first + len(self.classes)
        if rows.start <= first and stop <= rows.stop:
            return self
        kept = slice(max(rows.start - first, 0), max(rows.stop - first, 0))
        cut = {
            name: layer[..., kept, :]
            for name, layer in (
                ("classes", self.classes),
                ("confidence", self.confidence),
                ("probabilities", self.probabilities),
            )
            if layer is not None
        }
        return FinishedRows(**cut, place=(max(first, rows.start), self.place[1]))


def finished_from_logits(
    logits: FloatArray, valid: BoolArray, layers: Layers, place: tuple[int, int] = (0, 0)
) -> FinishedRows:
    """Everything asked for.

    Args:
        logits: (classes, row, column).
        valid: (row, column).
        layers: What to make besides classes.
        place: Scene row and column of the first pixel.

    Raises:
        ModelError: a logit is NaN or infinite.
    """
    classes = np.empty(valid.shape, np.uint8)
    confidence = np.empty_like(classes) if layers.confidence else None
    probabilities = np.empty(logits.shape, np.uint8) if layers.probabilities else None
    step = max(PASSING // valid.shape[1], 1)
    for top in range(0, len(valid), step):
        rows = slice(top, top + step)
        some, known = logits[:, rows], valid[rows]
        classes[rows] = classes_from_logits(some, known)
        if confidence is not None:
            confidence[rows] = confidence_from_logits(some, known)
        if probabilities is not None:
            probabilities[:, rows] = probabilities_from_logits(some, known)
    return FinishedRows(classes, confidence, probabilities, place)
