"""Random windows cut from the training scenes, with flips, rotations and jitter."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from mfnet.data.labels import Labels
from mfnet.data.scenes import MemoryScene
from mfnet.training.options import TrainConfig
from mfnet_runtime.contract import Contract
from mfnet_runtime.errors import UsageError
from mfnet_runtime.labels import IGNORE
from mfnet_runtime.scene.normalize import (
    DsmRange,
    FloatArray,
    dsm_range,
    pad_to_window,
    scale_dsm,
    scale_image,
)

MAX_TRIES = 20  # random places tried for a window with a labelled pixel


@dataclass(frozen=True)
class WindowBatch:
    """Windows ready for the network."""

    image: FloatArray  # (N, 3, window, window) in [0, 1]
    dsm: FloatArray  # (N, 1, window, window) in [0, 1]
    label: Labels  # (N, window, window)


class WindowSampler:
    """Draw batches of random windows; scenes and places are equally likely.

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
        """Return the batch of one step."""
        rng = np.random.default_rng((self.config.seed, epoch, step))
        parts = [self._window(rng) for _ in range(self.config.batch)]
        return WindowBatch(*(np.stack(kind) for kind in zip(*parts, strict=True)))

    def _window(self, rng: np.random.Generator) -> tuple[FloatArray, FloatArray, Labels]:
        side = self.contract.window
        for _ in range(MAX_TRIES):
            index = int(rng.integers(len(self.scenes)))
            scene = self.scenes[index]
            top = int(rng.integers(max(scene.height - side, 0) + 1))
            left = int(rng.integers(max(scene.width - side, 0) + 1))
            found = scene.label[top : top + side, left : left + side]
            if (found != IGNORE).any():
                break
        image, dsm, label = self._cut(index, top, left)
        image, dsm = (self._jitter(part, rng) for part in (image, dsm))
        for axis in (-2, -1):
            if self.config.flips and rng.random() < 0.5:
                image, dsm, label = np.flip(image, axis), np.flip(dsm, axis), np.flip(label, axis)
        if self.config.rotations and (turns := int(rng.integers(4))):
            image, dsm = np.rot90(image, turns, (-2, -1)), np.rot90(dsm, turns, (-2, -1))
            label = np.rot90(label, turns)
        return image, dsm, label

    def _cut(self, index: int, top: int, left: int) -> tuple[FloatArray, FloatArray, Labels]:
        """Return image, DSM and label of a window, padded if the scene is smaller."""
        scene, side = self.scenes[index], self.contract.window
        data = scene.read(top, top + side, range(left, left + side))
        image = pad_to_window(scale_image(data.image, data.image_valid, self.contract.image), side)
        dsm = pad_to_window(scale_dsm(data.dsm, data.dsm_valid, self.spans[index])[None], side)
        found = scene.label[top : top + side, left : left + side]
        label = np.full((side, side), IGNORE, np.uint8)
        label[: found.shape[0], : found.shape[1]] = found
        return image, dsm, label

    def _jitter(self, values: FloatArray, rng: np.random.Generator) -> FloatArray:
        """Change the exposure of an image, or the height range of a scene, at random."""
        if not self.config.jitter:
            return values
        gain, offset = rng.uniform(-self.config.jitter, self.config.jitter, 2).astype(np.float32)
        changed: FloatArray = np.clip(values * (1 + gain) + offset, 0.0, 1.0)
        return changed


class PublishedSampler(WindowSampler):
    """Draw the windows that the published code draws with Python's generator at the same seed.

    The last row and column of places are never drawn, and windows without a labelled pixel are
    kept.

    Raises:
        UsageError: A scene is not larger than a window.
    """

    def __init__(
        self, scenes: Sequence[MemoryScene], contract: Contract, config: TrainConfig
    ) -> None:
        super().__init__(scenes, contract, config)
        side = contract.window
        for scene in scenes:
            if min(scene.height, scene.width) <= side:
                raise UsageError(
                    f"'{scene.name}' is {scene.width} x {scene.height} px; --recipe paper cuts "
                    f"windows of {side} px from larger scenes only"
                )
        self._generator, self._drawn = random.Random(config.seed), 0

    def windows(self, epoch: int, step: int) -> WindowBatch:
        """Return the batch of one step, to which the generator is wound if necessary."""
        wanted = epoch * self.config.steps + step
        if wanted < self._drawn:
            self._generator, self._drawn = random.Random(self.config.seed), 0
        while True:
            places = [self._draw() for _ in range(self.config.batch)]
            self._drawn += 1
            if self._drawn > wanted:
                break
        parts = []
        for index, top, left, axes in places:
            cut = self._cut(index, top, left)
            parts.append([np.flip(part, axes) if axes else part for part in cut])
        return WindowBatch(*(np.stack(kind) for kind in zip(*parts, strict=True)))

    def _draw(self) -> tuple[int, int, int, tuple[int, ...]]:
        """Draw a scene, a row, a column, and the axes to flip, in this order."""
        generator, side = self._generator, self.contract.window
        index = generator.randint(0, len(self.scenes) - 1)
        scene = self.scenes[index]
        top = generator.randint(0, scene.height - side - 1)
        left = generator.randint(0, scene.width - side - 1)
        axes = tuple(axis for axis in (-2, -1) if generator.random() < 0.5)
        return index, top, left, axes
