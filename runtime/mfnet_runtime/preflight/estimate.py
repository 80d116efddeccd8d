"""What a run would take, without running it: windows, memory, disk and time of a scene."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mfnet_runtime.backends.base import Backend
from mfnet_runtime.console import complain
from mfnet_runtime.contract import Contract
from mfnet_runtime.errors import SceneError
from mfnet_runtime.scene.discovery import Scene
from mfnet_runtime.scene.options import ReadOptions
from mfnet_runtime.scene.reader import SceneReader
from mfnet_runtime.tiling.batch_size import BatchSize
from mfnet_runtime.tiling.memory import block_width, pixel_memory
from mfnet_runtime.tiling.pipeline import SegmentOptions

CALLS = 3  # of the network that are timed, after one that is not


@dataclass(frozen=True)
class Estimate:
    """Of one scene; bounds, where part of it has no data or compresses well."""

    scene: str
    height: int  # pixels
    width: int
    windows: int  # those on borders of blocks counted in both
    blocks: int
    memory: int  # bytes for pixels at a time, besides Python, the model and its engine
    disk: int  # bytes while the outputs are made, temporary files included, polygons aside
    seconds: float  # in the backend

    def to_json(self) -> dict[str, Any]:
        """The scene's part of the JSON summary."""
        return {
            "scene": self.scene,
            "status": "estimated",
            "height": self.height,
            "width": self.width,
            "windows": self.windows,
            "blocks": self.blocks,
            "memory_bytes": self.memory,
            "disk_bytes": self.disk,
            "backend_s": round(self.seconds, 4),
        }


def estimated_scenes(
    backend: Backend, scenes: Sequence[Scene], options: SegmentOptions, read: ReadOptions
) -> list[dict[str, Any]]:
    """A row of the JSON summary for every scene, those that cannot be segmented included.

    Args:
        backend: Entered; times a few windows.
        scenes: What would be segmented.
        options: How.
        read: How they would be read.

    Raises:
        UsageError: a scene's pixels do not fit in the memory allowed.
        ResourceError: the backend has not the memory for the batch.
    """
    batch = BatchSize(options.batch, backend.batches).chosen
    seconds = seconds_a_window(backend, batch)
    rows = []
    for scene in scenes:
        try:
            rows.append(estimated(backend, scene, options, read, seconds).to_json())
        except SceneError as fault:
            complain(str(fault))
            rows.append({"scene": scene.name, "status": "failed", "error": str(fault)})
    return rows


def seconds_a_window(backend: Backend, batch: int) -> float:
    """By a few calls of the network with windows of noise."""
    rng = np.random.default_rng(0)
    feed = {
        spec.name: rng.random((batch, *spec.shape[1:]), np.float32).astype(spec.dtype)
        for spec in backend.inputs
    }
    took = []
    for _ in range(CALLS + 1):
        started = time.perf_counter()
        backend.infer(feed)
        took.append(time.perf_counter() - started)
    return min(took[1:]) / batch


def estimated(
    backend: Backend,
    scene: Scene,
    options: SegmentOptions,
    read: ReadOptions,
    seconds: float,
) -> Estimate:
    """What a scene would take; opens it and reads no pixels but those that options ask for.

    Args:
        backend: Entered.
        scene: The files.
        options: How it would be segmented.
        read: How it would be read.
        seconds: The network's for a window.

    Raises:
        SceneError: it could not be segmented.
        UsageError: it does not fit in the memory allowed.
    """
    contract = backend.contract
    largest = BatchSize(options.batch, backend.batches).largest
    with SceneReader(scene, contract.image.full_scale, read) as reader:
        return estimate_of(reader, contract, largest, options, seconds)


def estimate_of(
    reader: SceneReader, contract: Contract, batch: int, options: SegmentOptions, seconds: float
) -> Estimate:
    """What an open scene would take, for at most so many windows a call.

    Raises:
        UsageError: it does not fit in the memory allowed.
    """
    layers = options.layers
    grid = options.grid(reader.height, reader.width, contract.window)
    needs = pixel_memory(reader, grid, contract, batch, options.blend)
    blocks = grid.blocks(options.block or block_width(grid, needs, options.max_memory))
    windows = sum(len(block) for block in blocks)
    planes = 1 + layers.confidence + layers.probabilities * len(contract.classes)
    pixels = grid.height * grid.width * planes
    return Estimate(
        reader.scene.name,
        grid.height,
        grid.width,
        windows,
        len(blocks),
        needs.of(max(len(block.under) for block in blocks)),
        # pieces, all of them as one, overviews, and all that once more in its last form
        2 * pixels + pixels // 3 + pixels * 4 // 3,
        windows * seconds,
    )
