"""Segment a scene: read, normalize, cut windows, infer, blend, arg max, hand on.

`segment_scene` is the product; nothing in it knows which backend runs or what a network is. A scene
is processed in blocks of columns, each from its top to its bottom, so that memory does not depend
on its size. Reading and blending run in threads of their own while the backend works.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mfnet_runtime.backends.base import Backend, DeviceBackend
from mfnet_runtime.contract import Contract
from mfnet_runtime.errors import DeviceLostError, ResourceError, UsageError
from mfnet_runtime.scene.normalize import (
    DsmRange,
    FloatArray,
    dsm_range,
    pad_to_window,
    scale_dsm,
    scale_image,
)
from mfnet_runtime.scene.reader import SceneData
from mfnet_runtime.tiling.batch_size import BatchSize
from mfnet_runtime.tiling.batches import Batch, Place, WindowRows, window_batches
from mfnet_runtime.tiling.batches import RowSource as RowSource
from mfnet_runtime.tiling.blend import mosaic
from mfnet_runtime.tiling.classes import FinishedRows, classify
from mfnet_runtime.tiling.grid import WindowGrid
from mfnet_runtime.tiling.memory import return_freed
from mfnet_runtime.tiling.options import PUBLISHED, Processor
from mfnet_runtime.tiling.options import SegmentOptions as SegmentOptions
from mfnet_runtime.tiling.prefetch import IN_FLIGHT, read_ahead, write_behind

Sink = Callable[[FinishedRows], None]  # takes the finished rows of a block from the top
Tick = Callable[[int], None]  # called with the number of windows just done


@dataclass
class SceneReport:
    """Counts and times of a segmented scene."""

    dsm: DsmRange
    windows: int  # of all blocks: those on a border of two count in both
    blocks: int = 1
    skipped: int = 0  # windows without a valid pixel, never inferred
    batch: int = 0  # windows a call of the backend; the size chosen where it was to be found
    backend_s: float = 0.0  # seconds inside the backend
    total_s: float = 0.0  # seconds in all, reading and writing included


def segment_scene(
    backend: Backend,
    reader: RowSource,
    sink: Sink,
    options: SegmentOptions,
    tick: Tick = lambda done: None,
    sizes: BatchSize | None = None,
    parts: Sequence[WindowGrid] | None = None,
    span: DsmRange | None = None,
) -> SceneReport:
    """Segment an open scene, or parts of it.

    Cutting, weights and the order of additions do not depend on the blocks, the batch or the timing
    of threads. The map is therefore the same, bit by bit, wherever the backend's logits of a window
    do not depend on the other windows of the call. No engine promises that; on CPUs it was measured
    to hold for our networks (benchmarks/TRIED.md). Batches of one window do not need the promise.

    Args:
        backend: Entered; called in the caller's thread only.
        reader: The open scene; read in a second thread.
        sink: Called in a third thread with rows of classes and the layers asked for, 255 where
            image or DSM has no data or outside of the area of interest; block after block from the
            left, each from its top to its bottom.
        options: Stride, blending, batch, where pixels are processed.
        tick: Called with the number of windows just inferred or skipped.
        sizes: The batch size shared by a run of many scenes; by default made from the options.
        parts: Blocks of columns, or bands of their rows, to segment instead of the whole scene.
        span: The heights scaled to 0 and 1, where already known.

    Raises:
        SceneError: a raster is damaged.
        ModelError: the model returned NaN or infinity.
        ResourceError: the backend lacks the memory for the batch.
        UsageError: the stride is larger than the window or the batch larger than the backend takes,
            or pixels cannot be processed where asked.
    """
    started = time.perf_counter()
    contract = backend.contract
    grid = options.grid(reader.height, reader.width, contract.window)
    blocks = grid.blocks(options.block or grid.width) if parts is None else parts
    span = span or dsm_range(options.dsm_rule(contract.dsm), reader.heights)
    report = SceneReport(span, sum(len(block) for block in blocks), len(blocks))
    sizes = sizes or BatchSize(options.batch, backend.batches)
    segment_block: Any = _segment_block
    if processor(backend, options) == "gpu":
        from mfnet_runtime.tiling.gpu import segment_block_on_gpu as segment_block
    for block in blocks:
        with closing(segment_block(backend, reader, sink, block, span, options, sizes)) as batches:
            for batch in batches:
                report.backend_s += batch.seconds
                report.skipped += batch.skipped
                tick(batch.windows + batch.skipped)
        return_freed(len(block.made) * len(block.made_rows))
    report.batch = sizes.chosen
    report.total_s = time.perf_counter() - started
    return report


def processor(backend: Backend, options: SegmentOptions) -> Processor:
    """Choose where windows are cut and logits blended: as asked, or where the network runs.

    Raises:
        UsageError: a GPU is asked for, and the backend does not run there or the layer or protocol
            is not available there.
    """
    capable = isinstance(backend, DeviceBackend)
    if options.preprocess == "gpu" and not capable:
        raise UsageError(
            f"{backend.name} on {backend.device} takes windows from the CPU's memory; "
            "leave out --preprocess gpu, or run a plan"
        )
    where = options.preprocess or ("gpu" if capable else "cpu")
    if where == "gpu" and options.probabilities:
        raise UsageError("--probabilities are not computed on a GPU; add --preprocess cpu")
    if where == "gpu" and options.sum == PUBLISHED:
        raise UsageError("--protocol published does not run on a GPU; add --preprocess cpu")
    return where


def _segment_block(
    backend: Backend,
    reader: RowSource,
    sink: Sink,
    block: WindowGrid,
    span: DsmRange,
    options: SegmentOptions,
    sizes: BatchSize,
) -> Iterator[Batch]:
    """Segment a block of a scene on the CPU; yields each batch once it was inferred."""
    contract = backend.contract
    room = min(sizes.largest, len(block))
    dtype = backend.inputs[0].dtype
    buffers = [HostBatch.allocate(room, contract, dtype) for _ in range(IN_FLIGHT)]
    sums = mosaic(block, len(contract.classes), options.sum)

    def finish(batch: HostBatch) -> None:
        """Blend the windows of a batch; classify and hand on the rows they finish."""
        logits = iter(batch.logits)
        for step in batch.steps:
            if isinstance(step, Place):
                sums.add(step.row, step.column, next(logits))
                continue
            place = (sums.top, block.made.start)
            rows = classify(
                sums.finish_above(step.stop),
                step.valid,
                confidence=options.confidence,
                probabilities=options.probabilities,
                place=place,
            ).within(block.made_rows)
            if len(rows.classes):
                sink(rows)

    windows = window_batches(NormalizedRows(reader, block, contract, span), sizes, buffers)
    with read_ahead(windows) as batches, write_behind(finish) as hand_on:
        for batch in batches:
            _infer(backend, batch, sizes)
            hand_on(batch)
            yield batch


@dataclass(kw_only=True)
class HostBatch(Batch):
    """Windows and their logits in the host's memory."""

    image: npt.NDArray[np.floating[Any]]  # (N, 3, window, window) in [0, 1]
    dsm: npt.NDArray[np.floating[Any]]  # (N, 1, window, window) in [0, 1]
    logits: FloatArray  # (N, classes, window, window)

    @staticmethod
    def allocate(windows: int, contract: Contract, dtype: np.dtype[Any]) -> HostBatch:
        """Allocate memory for a number of windows, in the data type of the model's inputs."""
        side = (contract.window, contract.window)
        return HostBatch(
            image=np.empty((windows, 3, *side), dtype),
            dsm=np.empty((windows, 1, *side), dtype),
            logits=np.empty((windows, len(contract.classes), *side), np.float32),
        )


class NormalizedRows(WindowRows[HostBatch]):
    """The rows under one row of windows, read and normalized once."""

    def __init__(
        self, reader: RowSource, grid: WindowGrid, contract: Contract, span: DsmRange
    ) -> None:
        super().__init__(reader, grid)
        self._rule, self._span = contract.image, span
        self._image = np.empty((3, *self.valid.shape), np.float32)
        self._dsm = np.empty((1, *self.valid.shape), np.float32)

    def take(self, fresh: SceneData, kept: int, batch: HostBatch) -> None:
        """Normalize new rows."""
        for plane in (*self._image, *self._dsm):
            plane[:kept] = plane[len(plane) - kept :]
        image, dsm = self._image[:, kept:], self._dsm[0, kept:]
        scale_image(fresh.image, fresh.image_valid, self._rule, image)
        scale_dsm(fresh.dsm, fresh.dsm_valid, self._span, dsm)

    def cut(self, place: Place, batch: HostBatch) -> None:
        """Copy a window into a batch; float16 inputs are rounded to nearest even here."""
        side = self.grid.window
        left = place.column.start - self.grid.under.start
        across = slice(left, left + side)
        for target, source in ((batch.image, self._image), (batch.dsm, self._dsm)):
            target[batch.windows] = pad_to_window(
                source[:, :, across], side
            )  # no copy if large enough


def _infer(backend: Backend, batch: HostBatch, sizes: BatchSize) -> None:
    """Fill in the logits of a batch, in smaller calls if the backend runs out of memory.

    Raises:
        ResourceError: a single window does not fit, or the batch was asked for explicitly.
    """
    # a batch filled before a smaller limit was known may exceed it
    done, call = 0, min(batch.windows, sizes.largest)
    while done < batch.windows:
        part = slice(done, min(done + call, batch.windows))
        count = part.stop - done
        feed = {"image": batch.image[part], "dsm": batch.dsm[part]}
        started = time.perf_counter()
        try:
            logits = backend.infer(feed)["logits"]
        except DeviceLostError:  # no batch is small enough for it
            raise
        except ResourceError as fault:
            call = sizes.smaller(count, fault)
            continue
        seconds = time.perf_counter() - started
        sizes.took(count, seconds)
        batch.logits[part] = logits  # the backend may overwrite its array in the next call
        batch.seconds += seconds
        done = part.stop
