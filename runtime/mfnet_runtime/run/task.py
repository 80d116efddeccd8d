"""A task: one block of a scene, done by any process that has the model and sees the files."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rasterio.windows import Window

from mfnet_runtime.backends.base import Backend
from mfnet_runtime.errors import ModelError, SceneError
from mfnet_runtime.labels import IGNORE
from mfnet_runtime.raster.geotiff import Block, BlockWriter, Rows
from mfnet_runtime.run.inputs import Input, require_unchanged
from mfnet_runtime.scene.discovery import Scene
from mfnet_runtime.scene.normalize import DsmRange
from mfnet_runtime.scene.options import ReadOptions
from mfnet_runtime.scene.reader import SceneReader
from mfnet_runtime.scene.resampling import PIECE
from mfnet_runtime.tiling.batch_size import BatchSize
from mfnet_runtime.tiling.classes import FinishedRows
from mfnet_runtime.tiling.grid import WindowGrid
from mfnet_runtime.tiling.options import SegmentOptions
from mfnet_runtime.tiling.pipeline import SceneReport, segment_scene


@dataclass(frozen=True)
class Task:
    """A block of a scene to segment: a plain value that can be sent to another process."""

    scene: Scene
    grid: WindowGrid  # the windows that reach the block
    span: DsmRange  # heights scaled to 0 and 1, the same for all blocks of the scene
    inputs: tuple[Input, ...]  # files of the scene, as they were when it was planned
    settings: str  # digest of the model, the options and the versions
    read: ReadOptions
    options: SegmentOptions
    folder: Path  # of the scene's temporary files
    place: tuple[range, range]  # rows and columns of the image that the block covers
    memory: int  # bytes that its pixels need, estimated

    @property
    def path(self) -> Path:
        """Path of the block."""
        return self.folder / f"{self.grid.made.start:08d}-{self.grid.made_rows.start:08d}.tif"


@dataclass(frozen=True)
class Receipt:
    """The block that a task left on disk."""

    settings: str  # of the task
    scene: str
    block: Block
    report: SceneReport

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON types, without the folder."""
        columns, rows = self.block.columns, self.block.rows
        return {
            "settings": self.settings,
            "scene": self.scene,
            "file": self.block.path.name,
            "columns": [columns.start, columns.stop],
            "rows": [rows.start, rows.stop],
            "crc32": list(self.block.checksums),
        }


def do(
    task: Task,
    backend: Backend,
    sizes: BatchSize | None = None,
    tick: Callable[[int], None] = lambda done: None,
) -> Receipt:
    """Segment a block and write its layers as one GeoTIFF, verified before it gets its name.

    Args:
        task: The block.
        backend: Entered, of the task's model.
        sizes: The batch size shared by tasks of this process.
        tick: Called with the number of windows just inferred or skipped.

    Raises:
        SceneError: a raster is damaged or changed meanwhile, or the model gave NaN or infinity.
        ResourceError: the backend lacks the memory for the batch.
        OSError: the block cannot be written.
    """
    started = time.perf_counter()
    contract, grid, options = backend.contract, task.grid, task.options
    bands = 1 + options.confidence + options.probabilities * len(contract.classes)
    rows, columns = task.place
    opened = partial(SceneReader, task.scene, contract.image.full_scale, task.read, task.folder)
    with (
        opened() as reader,
        # of its own, since the sink runs in another thread
        opened() if reader.scaling.changes else nullcontext(reader) as image,
        reader.small_cache(len(grid.under)),
        BlockWriter(task.path, bands, (len(rows), len(columns))) as writer,
    ):

        def write(finished: FinishedRows) -> None:
            for piece in on_image(image, stack(finished), finished.place):
                writer.write(piece)

        try:
            report = segment_scene(
                backend,
                reader,
                write,
                options,
                tick,
                sizes,
                [grid],
                task.span,
            )
        except ModelError as fault:  # other scenes may be fine
            raise SceneError(f"{task.scene.image}: {fault}") from fault
        require_unchanged(task.scene, task.inputs, task.read.limits)
    report.total_s = time.perf_counter() - started
    block = Block(task.path, columns, rows, writer.checksums)
    return Receipt(task.settings, task.scene.name, block, report)


def on_image(reader: SceneReader, layers: Rows, place: tuple[int, int]) -> Iterator[Rows]:
    """Bring layers from the pixels that were read to those of the image, in pieces from the top.

    Each pixel takes what lies at its centre; 255 where the image has no data, and outside of the
    areas.

    Args:
        reader: The open scene.
        layers: (band, row, column).
        place: Row and column of the first pixel.
    """
    scaling = reader.scaling
    if not scaling.changes:
        yield layers
        return
    (top, left), (_, height, width) = place, layers.shape
    rows, columns = scaling.covered(range(top, top + height), range(left, left + width))
    across = scaling.columns.nearest(columns) - left
    step = max(PIECE // len(columns), 1)
    for start in range(rows.start, rows.stop, step):
        piece = range(start, min(start + step, rows.stop))
        wanted = reader.wanted_in_image(Window(columns.start, start, len(columns), len(piece)))
        found = layers[:, scaling.rows.nearest(piece) - top][:, :, across]
        yield np.where(wanted, found, np.uint8(IGNORE))


def stack(rows: FinishedRows) -> Rows:
    """Return the bands of a block: classes, confidence, probabilities, as far as asked for."""
    found = [rows.classes[None]]
    if rows.confidence is not None:
        found.append(rows.confidence[None])
    if rows.probabilities is not None:
        found.append(rows.probabilities)
    return np.concatenate(found)
