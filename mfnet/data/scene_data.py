"""Labelled scenes in memory, and random windows cut from them. Knows no torch and no network.

Reading and scaling are the runtime's, so that training and inference see the same numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from mfnet.data.datasets import Dataset, read_label
from mfnet.training.train_config import TrainConfig
from mfnet_runtime.contract import Contract
from mfnet_runtime.errors import SceneError
from mfnet_runtime.labels import IGNORE
from mfnet_runtime.scene.discovery import Scene
from mfnet_runtime.scene.normalize import (
    BoolArray,
    DsmRange,
    FloatArray,
    Heights,
    dsm_range,
    padded,
    scaled_dsm,
    scaled_image,
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


@dataclass(frozen=True)
class WindowBatch:
    """Windows ready for the network."""

    image: FloatArray  # (N, 3, window, window) in [0, 1]
    dsm: FloatArray  # (N, 1, window, window) in [0, 1]
    label: Labels  # (N, window, window)


class WindowSampler:
    """Random windows: a scene, a place in it, flips, turns, all equally likely (MFNET.md 6).

    A batch depends on the seed, the epoch and the step alone, so that a resumed run sees what an
    uninterrupted one would have seen.
    """

    def __init__(
        self, scenes: Sequence[MemoryScene], contract: Contract, config: TrainConfig
    ) -> None:
        self.scenes = scenes
        self.contract = contract
        self.config = config

    @cached_property
    def spans(self) -> list[DsmRange]:
        """DSM range of each scene."""
        return [dsm_range(self.contract.dsm, scene.heights) for scene in self.scenes]

    def windows(self, epoch: int, step: int) -> WindowBatch:
        """The batch of one step."""
        rng = np.random.default_rng((self.config.seed, epoch, step))
        parts = [self._window(rng) for _ in range(self.config.batch)]
        image, dsm, label = (np.stack(kind) for kind in zip(*parts, strict=True))
        return WindowBatch(image, dsm, label)

    def _window(self, rng: np.random.Generator) -> tuple[FloatArray, FloatArray, Labels]:
        side = self.contract.window
        for _ in range(MAX_TRIES):
            index = int(rng.integers(len(self.scenes)))
            scene = self.scenes[index]
            top = int(rng.integers(max(scene.height - side, 0) + 1))
            left = int(rng.integers(max(scene.width - side, 0) + 1))
            place = (slice(top, top + side), slice(left, left + side))
            if (scene.label[place] != IGNORE).any():
                break
        valid = scene.image_valid[place]
        image = padded(
            scaled_image(scene.image[(slice(None), *place)], valid, self.contract.image), side
        )
        heights, known = scene.dsm[place], scene.dsm_valid[place]
        dsm = padded(scaled_dsm(heights, known, self.spans[index])[None], side)
        label = np.full((side, side), IGNORE, np.uint8)
        label[: valid.shape[0], : valid.shape[1]] = scene.label[place]
        image, dsm = (self._jittered(part, rng) for part in (image, dsm))
        for axis in (-2, -1):
            if self.config.flips and rng.random() < 0.5:
                image, dsm, label = np.flip(image, axis), np.flip(dsm, axis), np.flip(label, axis)
        if self.config.rotations and (turns := int(rng.integers(4))):
            image, dsm = np.rot90(image, turns, (-2, -1)), np.rot90(dsm, turns, (-2, -1))
            label = np.rot90(label, turns)
        return image, dsm, label

    def _jittered(self, values: FloatArray, rng: np.random.Generator) -> FloatArray:
        """Another exposure, or another height range of the scene: values times a, plus b."""
        if not self.config.jitter:
            return values
        gain, offset = rng.uniform(-self.config.jitter, self.config.jitter, 2).astype(np.float32)
        changed: FloatArray = np.clip(values * (1 + gain) + offset, 0.0, 1.0)
        return changed


def class_counts(scenes: Sequence[MemoryScene], classes: int) -> npt.NDArray[np.int64]:
    """Labelled pixels of each class."""
    counts = np.zeros(256, np.int64)
    for scene in scenes:
        counts += np.bincount(scene.label.ravel(), minlength=256)
    return counts[:classes]
