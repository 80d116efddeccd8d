"""A whole scene through a plan: GeoTIFF in, class map out, preprocessing on the GPU and on the CPU.

The share of the engine's own rate says what reading, cutting, blending and writing cost beside it.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import rasterio

from mfnet.synthetic import write_town
from mfnet_bench.gpu.request import CheckRequest
from mfnet_runtime.backends.base import Backend
from mfnet_runtime.errors import MFNetError
from mfnet_runtime.run.segment import segment_scenes
from mfnet_runtime.scene.discovery import Scene, scenes_from
from mfnet_runtime.tiling.pipeline import SegmentOptions

ROUNDS = 3
SEED = 11


@dataclass(frozen=True, kw_only=True)
class SceneRow:
    """One way through one scene."""

    network: str
    preprocess: str  # gpu or cpu
    stride: int  # pixels
    batch: int
    windows: int
    total_s: float  # median, from opening the files to the verified map
    engine_s: float  # what the windows take at the engine's own rate, data on the device
    share: float  # engine_s over total_s
    agreement: float | None = None  # share of pixels of the first way's class

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)


def drawn_scene(request: CheckRequest) -> Scene:
    """A drawn town of the size asked for, made once."""
    rows, columns = request.scene_size
    folder = request.work / f"town_{rows}x{columns}"
    if not folder.exists():
        with tempfile.TemporaryDirectory(dir=request.work) as partial:
            write_town(Path(partial) / "town", {"town": SEED}, request.scene_size)
            (Path(partial) / "town").rename(folder)
    return scenes_from(folder)[0]


def scene_rows(
    name: str,
    backend: Backend,
    request: CheckRequest,
    ms_of_window: Callable[[], float],
    ways: Sequence[str],
) -> list[SceneRow]:
    """Rows of one plan at every stride, the ways taking turns.

    Args:
        name: Of the network.
        backend: Entered.
        request: Scene, strides.
        ms_of_window: Measures the engine alone at the batch used.
        ways: How pixels become batches.
    """
    scene = drawn_scene(request)
    rows: list[SceneRow] = []
    for stride in request.strides:
        taken: dict[str, list[float]] = {way: [] for way in ways}
        alone: list[float] = []
        maps: dict[str, Path] = {}
        for _ in range(ROUNDS):
            alone.append(ms_of_window())
            for way in ways:
                folder = request.work / "maps" / f"{name.replace(' ', '_')}_{stride}_{way}"
                started = time.perf_counter()
                report = _segmented(backend, scene, folder, stride, way, request.best_batch)
                taken[way].append(time.perf_counter() - started)
                maps[way] = folder / f"{scene.name}.tif"
        windows = report.windows - report.skipped
        engine_s = median(alone) * windows / 1000
        for way in ways:
            rows.append(
                SceneRow(
                    network=name,
                    preprocess=way,
                    stride=stride,
                    batch=report.batch,
                    windows=windows,
                    total_s=median(taken[way]),
                    engine_s=engine_s,
                    share=engine_s / median(taken[way]),
                    agreement=None if way == ways[0] else _same(maps[ways[0]], maps[way]),
                )
            )
    return rows


def _segmented(
    backend: Backend, scene: Scene, folder: Path, stride: int, way: Any, batch: int
) -> Any:
    options = SegmentOptions(stride, "uniform", batch, preprocess=way)
    (outcome,) = segment_scenes(backend, [scene], folder, options, quiet=True)
    if outcome.report is None:
        raise MFNetError(outcome.error)
    return outcome.report


def _same(one: Path, other: Path) -> float:
    with rasterio.open(one) as first, rasterio.open(other) as second:
        return float(np.mean(first.read(1) == second.read(1)))
