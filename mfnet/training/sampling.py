"""Random windows cut from the training scenes, with flips, rotations and jitter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from mfnet.data.scene_data import Labels, MemoryScene
from mfnet.training.train_config import TrainConfig
from mfnet_runtime.contract import Contract
from mfnet_runtime.labels import IGNORE
from mfnet_runtime.scene.normalize import (
    DsmRange,
    FloatArray,
    dsm_range,
    padded,
    scaled_dsm,
    scaled_image,
)

MAX_TRIES = 20  # random places tried for a window with a labelled pixel


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
