"""Pixels per second through everything but the network: `mfnet-run` with a stub.

A synthetic scene goes from opened rasters to the verified class map. Two parts are timed alone as
well: the range of heights, and pixels to classes. The rest is spent on files.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio.transform import from_origin
from rasterio.windows import Window

from mfnet.synthetic import draw_town
from mfnet_bench.machine import machine_facts
from mfnet_runtime.backends.base import DEFAULT_BATCH, Arrays, Batches, Feed, specs_of
from mfnet_runtime.contract import Contract
from mfnet_runtime.errors import UsageError
from mfnet_runtime.labels import ClassTable
from mfnet_runtime.run.segment import segment_scenes
from mfnet_runtime.scene.discovery import Scene
from mfnet_runtime.scene.normalize import dsm_range
from mfnet_runtime.scene.reader import SceneReader
from mfnet_runtime.tiling.memory import block_width, pixel_memory
from mfnet_runtime.tiling.pipeline import SegmentOptions, segment_scene

WINDOW, CLASSES = 256, 6  # pixels a side; as in the ISPRS data sets
TOWN, TILE = 1024, 512  # pixels a side of the town, which is repeated, and of the stored tiles


class StubBackend:
    """A backend whose logits are the bands of its input, or 0."""

    name = device = precision = "stub"
    threads = 1
    contract = Contract(
        WINDOW, ClassTable(tuple("abcdef"), tuple((40 * i, 0, 0) for i in range(CLASSES)))
    )
    batches = Batches()
    inputs, outputs = specs_of(contract)
    logits = np.zeros((DEFAULT_BATCH, CLASSES, WINDOW, WINDOW), np.float32)

    def infer(self, feed: Feed) -> Arrays:
        """Copy bands to logits."""
        logits = self.logits[: len(feed["image"])]
        logits[:, :3], logits[:, 3:4] = feed["image"], feed["dsm"]
        return {"logits": logits}

    def __enter__(self) -> StubBackend:
        return self

    def __exit__(self, *raised: object) -> None:
        return None


@dataclass(frozen=True)
class Throughput:
    """Medians over the rounds."""

    size: int  # pixels a side
    stride: int  # pixels between windows
    windows: int
    rounds: int
    mpx_per_s: float  # million pixels per second, all parts together
    total_s: float
    heights_s: float  # range of the DSM
    classes_s: float  # reading, scaling, cutting, the stub, blending, argmax
    files_s: float  # the rest: manifest, class map with overviews, reading it back
    machine: dict[str, Any] = field(default_factory=machine_facts)

    def sentence(self) -> str:
        """Return the result in words."""
        found = {"heights": self.heights_s, "classes": self.classes_s, "files": self.files_s}
        return (
            f"{self.mpx_per_s:.1f} Mpx/s: {self.size} x {self.size} px at stride {self.stride}, "
            f"{self.windows} windows, {self.total_s:.2f} s (median of {self.rounds}); "
            + ", ".join(f"{part} {took / self.total_s:.0%}" for part, took in found.items())
        )


def measure(size: int, stride: int, rounds: int) -> Throughput:
    """Draw a scene in a temporary folder and time it, after one round that does not count.

    Raises:
        UsageError: There is nothing to measure, or the stride does not fit the window.
    """
    if size < 1 or rounds < 1:
        raise UsageError(f"--size {size}, --rounds {rounds}: expected at least 1")
    windows = len(SegmentOptions(stride).grid(size, size, WINDOW))
    with tempfile.TemporaryDirectory(prefix="mfnet-throughput-") as folder:
        scene = draw_scene(Path(folder), size)
        found = [_round(scene, Path(folder) / str(index), stride) for index in range(rounds + 1)]
    total, heights, classes = (median(column) for column in zip(*found[1:], strict=True))
    speed, files = size * size / 1e6 / total, total - heights - classes
    return Throughput(size, stride, windows, rounds, speed, total, heights, classes, files)


def draw_scene(folder: Path, size: int) -> Scene:
    """Write a town, repeated, in uncompressed tiles."""
    town = draw_town((TOWN, TOWN), 0)
    image, dsm = folder / "image.tif", folder / "dsm.tif"
    _write_repeated(image, town.image, size)
    _write_repeated(dsm, town.dsm[None], size)
    return Scene("town", image, dsm)


def _write_repeated(path: Path, patch: npt.NDArray[Any], size: int) -> None:
    kind = {"driver": "GTiff", "count": len(patch), "dtype": patch.dtype}
    tiles = {"tiled": True, "blockxsize": TILE, "blockysize": TILE}
    place = {"crs": "EPSG:32632", "transform": from_origin(5e5, 5.4e6, 0.3, 0.3)}
    wide = np.tile(patch, (1, 1, -(-size // TOWN)))[..., :size]
    with rasterio.open(path, "w", height=size, width=size, **kind, **tiles, **place) as target:
        for top in range(0, size, TOWN):
            rows = wide[:, : size - top]
            target.write(rows, window=Window(0, top, size, rows.shape[1]))


def _round(scene: Scene, out: Path, stride: int) -> tuple[float, float, float]:
    """Return the seconds of a run, of its range of heights, and of its pixels to classes."""
    backend, options = StubBackend(), SegmentOptions(stride)
    times = [time.perf_counter()]
    segment_scenes(backend, [scene], out, options, quiet=True)
    times.append(time.perf_counter())
    with SceneReader(scene) as reader:
        grid = options.grid(reader.height, reader.width, WINDOW)
        needs = pixel_memory(reader, grid, backend.contract, DEFAULT_BATCH, options.sum)
        blocks = grid.blocks(block_width(grid, needs))
        with reader.small_cache(max(len(block.under) for block in blocks)):
            span = dsm_range(backend.contract.dsm, reader.heights)
            times.append(time.perf_counter())
            segment_scene(backend, reader, lambda _: None, options, parts=blocks, span=span)
            times.append(time.perf_counter())
    total, heights, classes = np.diff(times).tolist()
    return total, heights, classes
