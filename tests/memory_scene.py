"""Scenes in memory, and class maps put together from rows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mfnet_runtime.scene.normalize import Heights
from mfnet_runtime.scene.reader import SceneData
from mfnet_runtime.tiling.classes import FinishedRows

UNTOUCHED = 254  # no class has this index


@dataclass(frozen=True)
class MemoryScene:
    """A scene in memory, with the interface of `SceneReader`."""

    image: npt.NDArray[Any]  # (3, row, column)
    dsm: npt.NDArray[np.float32]
    image_valid: npt.NDArray[np.bool_]
    dsm_valid: npt.NDArray[np.bool_]
    inside: npt.NDArray[np.bool_] | None = None  # of the areas asked for

    @property
    def height(self) -> int:
        return len(self.dsm)

    @property
    def width(self) -> int:
        return len(self.dsm[0])

    def read(self, start: int, stop: int, columns: range | None = None) -> SceneData:
        across = range(self.width) if columns is None else columns
        at = (slice(start, stop), slice(across.start, across.stop))
        inside = None if self.inside is None else self.inside[at]
        image = self.image[(slice(None), *at)]
        return SceneData(image, self.dsm[at], self.image_valid[at], self.dsm_valid[at], inside)

    def heights(self) -> Heights:
        return [(self.dsm, self.dsm_valid)]


def noise_scene(
    height: int, width: int, stored: str = "uint8", top: float = 255, seed: int = 0
) -> MemoryScene:
    """Return noise with holes that hold NaN and infinities."""
    rng = np.random.default_rng((seed, height, width))
    image = rng.uniform(0, top, (3, height, width)).astype(stored)
    dsm = rng.uniform(240, 360, (height, width)).astype(np.float32)
    image_valid, dsm_valid = (rng.random((height, width)) > 0.1 for _ in range(2))
    if image.dtype.kind == "f":
        image[0][~image_valid] = np.nan
    dsm[~dsm_valid] = rng.choice([np.nan, np.inf, -9999], (~dsm_valid).sum())
    return MemoryScene(image, dsm, image_valid, dsm_valid)


def class_map(rows: Iterable[FinishedRows], height: int, width: int) -> npt.NDArray[np.uint8]:
    """Return the classes (row, column) of a scene; every pixel must come exactly once."""
    classes = np.full((height, width), UNTOUCHED, np.uint8)
    for done in rows:
        (row, column), (count, across) = done.place, done.classes.shape
        at = (slice(row, row + count), slice(column, column + across))
        assert (classes[at] == UNTOUCHED).all()
        classes[at] = done.classes
    assert (classes != UNTOUCHED).all()
    return classes
