"""Labelled scenes in memory, and random windows cut from them. Knows no torch and no network.

Reading and scaling are the runtime's, so that training and inference see the same numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from mfnet.data.datasets import Dataset, read_label
from mfnet_runtime.errors import SceneError
from mfnet_runtime.labels import IGNORE
from mfnet_runtime.scene.discovery import Scene
from mfnet_runtime.scene.normalize import (
    BoolArray,
    FloatArray,
    Heights,
)
from mfnet_runtime.scene.options import ReadOptions
from mfnet_runtime.scene.reader import SceneData, SceneReader

Labels = npt.NDArray[np.uint8]
MAX_TRIES = 20  # random places tried for a window that has any labelled pixel


@dataclass(frozen=True)
class MemoryScene:
    """A labelled scene, or some rows of one, held as stored: about 10 bytes a pixel.

    Gives its rows as `mfnet_runtime.tiling.pipeline.RowSource` asks, so it can be segmented.
    """

    name: str
    image: npt.NDArray[Any]  # (3, row, column), as stored
    dsm: FloatArray  # (row, column), metres
    image_valid: BoolArray
    dsm_valid: BoolArray
    label: Labels  # IGNORE where image or DSM has no data
    whole_dsm: tuple[FloatArray, BoolArray]  # of the scene this was cut from: its statistics hold

    @property
    def height(self) -> int:
        """Rows."""
        return int(self.label.shape[0])

    @property
    def width(self) -> int:
        """Columns."""
        return int(self.label.shape[1])

    def read(self, start: int, stop: int, columns: range | None = None) -> SceneData:
        """Rows from `start` up to `stop`, of all columns or of some that follow each other."""
        across = range(self.width) if columns is None else columns
        at = (slice(start, stop), slice(across.start, across.stop))
        return SceneData(
            self.image[(slice(None), *at)], self.dsm[at], self.image_valid[at], self.dsm_valid[at]
        )

    def heights(self) -> Heights:
        """The DSM of the whole scene, also where this is a part of it."""
        return [self.whole_dsm]

    def rows(self, start: int, stop: int) -> MemoryScene:
        """A part of the scene; shares its memory."""
        part = slice(start, stop)
        return replace(
            self,
            image=self.image[:, part],
            dsm=self.dsm[part],
            image_valid=self.image_valid[part],
            dsm_valid=self.dsm_valid[part],
            label=self.label[part],
        )


def opened_scene(scene: Scene, dataset: Dataset, full_scale: float) -> SceneReader:
    """A scene opened as its dataset wants to be read.

    Raises:
        SceneError: a file is missing or damaged, bands or grids do not fit.
    """
    options = ReadOptions(dataset.bands, dataset.use_alpha, dataset.use_place)
    return SceneReader(scene, full_scale, options)


def scene_in_memory(scene: Scene, dataset: Dataset, full_scale: float) -> MemoryScene:
    """Read a labelled scene.

    Raises:
        SceneError: a file is missing, damaged, on another grid, or a label is out of range.
    """
    with opened_scene(scene, dataset, full_scale) as reader:
        label = label_of(scene, dataset, reader)
        rows = reader.read(0, reader.height)
    label[~(rows.image_valid & rows.dsm_valid)] = IGNORE
    return MemoryScene(
        scene.name,
        rows.image,
        rows.dsm,
        rows.image_valid,
        rows.dsm_valid,
        label,
        (rows.dsm, rows.dsm_valid),
    )


def label_of(scene: Scene, dataset: Dataset, reader: SceneReader) -> Labels:
    """The label of an open scene, (row, column) uint8, IGNORE where undefined.

    Raises:
        SceneError: no label, damaged, on another grid, or values that are no class.
    """
    if scene.label is None:
        raise SceneError(f"{scene.image}: scene '{scene.name}' has no label")
    reader.require_grid_of(scene.label)
    return read_label(scene.label, dataset.coding, dataset.classes)


def class_counts(scenes: Sequence[MemoryScene], classes: int) -> npt.NDArray[np.int64]:
    """Labelled pixels of each class."""
    counts = np.zeros(256, np.int64)
    for scene in scenes:
        counts += np.bincount(scene.label.ravel(), minlength=256)
    return counts[:classes]
