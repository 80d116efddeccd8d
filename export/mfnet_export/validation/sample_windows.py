"""Sample windows for validation: cut from real scenes or drawn, and noise. Deterministic.

Real windows are read and scaled by the runtime's own code.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mfnet.data.datasets import published_in
from mfnet.synthetic import draw_town
from mfnet_runtime.backends.base import Arrays, Backend
from mfnet_runtime.contract import Contract, DsmRule, ImageRule
from mfnet_runtime.errors import UsageError
from mfnet_runtime.scene.discovery import Scene, scenes_from
from mfnet_runtime.scene.normalize import dsm_range, pad_to_window, scale_dsm, scale_image
from mfnet_runtime.scene.options import ReadOptions
from mfnet_runtime.scene.reader import DEFAULT_OPTIONS, SceneReader
from mfnet_runtime.tiling.grid import Offset, WindowGrid

NOISE_WINDOWS = 2  # inputs that no scene has: uniform noise, and zeros and ones only
SEED = 2024

Floats = npt.NDArray[np.float32]
Window = tuple[Floats, Floats]  # image (3, row, column) and dsm (1, row, column) in [0, 1]


@dataclass(frozen=True, eq=False)
class Windows:
    """Scaled windows and their origin."""

    image: Floats  # (n, 3, window, window) in [0, 1]
    dsm: Floats  # (n, 1, window, window) in [0, 1]
    source: str  # origin, for reports

    def __len__(self) -> int:
        return len(self.image)

    def feed(self, part: slice | npt.NDArray[np.int64], backend: Backend) -> Arrays:
        """Return some of the windows in the number type that a backend expects."""
        return {
            spec.name: getattr(self, spec.name)[part].astype(spec.dtype, copy=False)
            for spec in backend.inputs
        }


def sample_windows(
    contract: Contract,
    scenes: Path | None = None,
    count: int = 4,
    read: ReadOptions = DEFAULT_OPTIONS,
) -> Windows:
    """Return `count` windows of scenes or of a synthetic town, and two of noise.

    Args:
        contract: Contract with the window size and the scaling.
        scenes: Folder as of `windows_from_folder`; None draws a synthetic town.
        count: At least 1; small scenes may give fewer.
        read: How to read scenes.

    Raises:
        UsageError: There is no scene, no valid pixel, or `count` is below 1.
        SceneError: A scene is damaged or does not fit the contract.
    """
    if count < 1:
        raise UsageError(f"--windows {count}: expected at least 1")
    if scenes is None:
        found, origin = synthetic_windows(contract.window, count), "of a synthetic town"
    else:
        found = windows_from_folder(scenes, contract, count, read)
        origin = f"of {scenes.name}"
    source = f"{len(found)} {origin}, {NOISE_WINDOWS} of noise"
    return stack_windows(found + noise_windows(contract.window), source)


def stack_windows(pairs: Sequence[Window], source: str) -> Windows:
    """Stack pairs of image and DSM windows."""
    images, heights = zip(*pairs, strict=True)
    return Windows(np.stack(images), np.stack(heights), source)


def windows_from_folder(
    folder: Path, contract: Contract, count: int, read: ReadOptions, training: bool = False
) -> list[Window]:
    """Cut windows evenly spread over scenes, without those that have no valid pixel.

    Args:
        folder: Folder with image/ and dsm/, or of a published dataset.
        contract: Contract with the window size and the scaling.
        count: At least 1; small scenes may give fewer.
        read: How to read scenes.
        training: Of a published dataset, take the scenes to train on, not those to test on.

    Raises:
        UsageError: There is no scene, or no valid pixel.
        SceneError: A scene is damaged or does not fit the contract.
    """
    published = published_in(folder, read)
    if published is None:
        scenes = scenes_from(folder, drivers=read.allow_driver)
    else:
        scenes, read = published.train if training else published.test, published.read
    found = _windows_from_scenes(scenes, contract, count, read)
    if not found:
        raise UsageError(f"{folder}: no window with a valid pixel; choose other scenes")
    return found


def _windows_from_scenes(
    scenes: Sequence[Scene], contract: Contract, count: int, read: ReadOptions
) -> list[Window]:
    used = scenes[:count]
    found: list[Window] = []
    for index, scene in enumerate(used):
        share = count // len(used) + (index < count % len(used))
        with SceneReader(scene, contract.image.full_scale, read.for_model(contract)) as reader:
            found += _windows_from_reader(reader, contract, share)
    return found


def synthetic_windows(window: int, count: int) -> list[Window]:
    """Draw windows of towns, each scaled by its own heights whatever the contract says."""
    return [_window_from_town(window, SEED + index) for index in range(count)]


def noise_windows(window: int) -> list[Window]:
    """Return one window of uniform noise and one of zeros and ones."""
    rng = np.random.default_rng(SEED)
    uniform = rng.random((4, window, window), np.float32)
    extreme = rng.integers(0, 2, (4, window, window)).astype(np.float32)
    return [(noise[:3], noise[3:]) for noise in (uniform, extreme)]


def _windows_from_reader(reader: SceneReader, contract: Contract, count: int) -> list[Window]:
    side = contract.window
    span = dsm_range(contract.dsm, reader.heights)
    places = list(WindowGrid(reader.height, reader.width, side, side))
    found: list[Window] = []
    for row, column in _spread(places, count):
        rows = reader.read(row.start, min(row.start + side, reader.height))
        cut = slice(column.start, column.start + side)
        if rows.wanted[:, cut].any():
            image = scale_image(rows.image[:, :, cut], rows.image_valid[:, cut], contract.image)
            dsm = scale_dsm(rows.dsm[:, cut], rows.dsm_valid[:, cut], span)
            found.append((pad_to_window(image, side), pad_to_window(dsm[None], side)))
        if len(found) == count:
            break
    return found


def _spread(places: list[tuple[Offset, Offset]], count: int) -> Iterator[tuple[Offset, Offset]]:
    """Yield `count` evenly spaced places, then all others in case those have no valid pixel."""
    chosen = {(2 * index + 1) * len(places) // (2 * count) for index in range(count)}
    rest = [index for index in range(len(places)) if index not in chosen]
    return (places[index] for index in [*sorted(chosen), *rest])


def _window_from_town(window: int, seed: int) -> Window:
    town = draw_town((window, window), seed)
    everywhere = np.ones(town.dsm.shape, np.bool_)
    span = dsm_range(DsmRule(), lambda: [(town.dsm, everywhere)])
    image = scale_image(town.image, everywhere, ImageRule())
    return image, scale_dsm(town.dsm, everywhere, span)[None]
