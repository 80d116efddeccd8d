"""Segment a block of a scene on a GPU: raw rows go up, classes come down.

Windows and logits never leave the GPU. Of its three streams one copies new rows up, one cuts,
infers, blends and finishes, one copies classes down. A batch is enqueued before the previous one is
waited for, so that the network waits neither for copies nor for the CPU. Only the caller's thread
makes CUDA calls.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Protocol

import numpy as np

from mfnet_runtime.backends.base import Backend, DeviceBackend, DeviceTensors
from mfnet_runtime.errors import DeviceLostError, DeviceMemoryError, ModelError, ResourceError
from mfnet_runtime.labels import IGNORE
from mfnet_runtime.scene.normalize import DsmRange
from mfnet_runtime.tiling.batch_size import BatchSize
from mfnet_runtime.tiling.batches import Batch, RowSource, Strip, window_batches
from mfnet_runtime.tiling.classes import NOT_FINITE, FinishedRows
from mfnet_runtime.tiling.gpu_buffers import SceneMemory
from mfnet_runtime.tiling.gpu_staging import DeviceBatch, Layout, StagedRows, stored_type
from mfnet_runtime.tiling.grid import WindowGrid
from mfnet_runtime.tiling.options import PUBLISHED, SegmentOptions
from mfnet_runtime.tiling.prefetch import IN_FLIGHT, read_ahead, write_behind


class GpuBackend(Backend, DeviceBackend, Protocol):
    """A backend whose windows and logits stay on the GPU."""


def segment_block_on_gpu(
    backend: GpuBackend,
    reader: RowSource,
    sink: Callable[[FinishedRows], None],
    block: WindowGrid,
    span: DsmRange,
    options: SegmentOptions,
    sizes: BatchSize,
) -> Iterator[Batch]:
    """Segment a block of a scene on a GPU; yields each batch once it was inferred.

    Raises:
        ResourceError: the GPU lacks the memory for the block or for one window.
    """
    device = _Device(backend, reader, block, span, options, sizes)

    def finish(batch: DeviceBatch) -> None:
        rows = device.finished(batch).within(block.made_rows)
        if len(rows.classes):
            sink(rows)

    windows = window_batches(device.rows, sizes, device.batches, device.max_strips)
    with device, read_ahead(windows) as batches, write_behind(finish) as hand_on:
        ahead: DeviceBatch | None = None
        for batch in batches:
            # its rows replace those of the batch before `ahead`, which has been waited for
            device.enqueue(batch)
            if ahead is not None:
                device.wait(ahead)
                hand_on(ahead)
                yield ahead
            ahead = batch
        if ahead is not None:
            device.wait(ahead)
            hand_on(ahead)
            yield ahead


class _Device:
    """The memory and the work of one block on a GPU."""

    def __init__(
        self,
        backend: GpuBackend,
        reader: RowSource,
        grid: WindowGrid,
        span: DsmRange,
        options: SegmentOptions,
        sizes: BatchSize,
    ) -> None:
        assert options.sum != PUBLISHED, "`processor` refuses it"
        self._backend, self._cuda, self._sizes = backend, backend.cuda, sizes
        stored = stored_type(reader.read(0, 1, grid.under).image.dtype)
        layout = Layout(grid, stored, options.confidence)
        self.max_strips = layout.max_strips
        self._finished = grid.rows[0].start  # scene row after those of the batches enqueued
        with self._cuda.current():
            self._tensors = self._reserve_tensors(len(grid))
            self._kernels = backend.kernels()
            room = min(sizes.largest, len(grid))
            in_flight = IN_FLIGHT + 1  # one enqueued while the previous one runs
            try:
                self._memory = SceneMemory(
                    self._cuda,
                    layout,
                    backend.contract,
                    span,
                    options.sum,
                    in_flight,
                    room,
                )
            except DeviceMemoryError as fault:
                raise ResourceError(f"{fault}; or use --preprocess cpu") from fault
        self.batches = self._memory.batches
        self.rows = StagedRows(reader, grid, self._memory.row_shares, self._memory.column_shares)

    def enqueue(self, batch: DeviceBatch) -> None:
        """Enqueue all work on a batch, in the order of the three streams."""
        memory, kernels, tensors = self._memory, self._kernels, self._tensors
        there, compute = memory.of(batch), memory.compute
        rows = range(self._finished, batch.stop or self._finished)
        with self._cuda.current():
            placements = memory.upload_batch(batch)
            compute.wait(there.uploaded)
            self._cuda.clear(there.not_finite.pointer, there.not_finite.size, compute)
            if batch.windows:
                kernels.cut(memory.piece, placements, tensors.image, tensors.dsm, compute)
            there.inferring.record(compute)
            if batch.windows:
                tensors.enqueue(batch.windows, compute)
            there.inferred.record(compute)
            kernels.blend(memory.sums, memory.shares, placements, tensors.logits, compute)
            kernels.finish(
                memory.sums,
                memory.piece.mask,
                memory.piece.slots,
                rows,
                there.classes.pointer,
                there.confidence.pointer if there.confidence else 0,
                there.not_finite.pointer,
                compute,
            )
            there.finished.record(compute)
            memory.download_batch(batch, len(rows))
        batch.finished = len(rows)
        self._finished = rows.stop

    def wait(self, batch: DeviceBatch) -> None:
        """Wait for a batch, and note the seconds of the network by the GPU's own clock."""
        there = self._memory.of(batch)
        with self._cuda.current():
            there.downloaded.synchronize()
            batch.seconds = there.inferred.milliseconds_since(there.inferring) / 1000
        self._sizes.took(batch.windows, batch.seconds)

    def finished(self, batch: DeviceBatch) -> FinishedRows:
        """The rows that a batch finished, possibly none.

        Raises:
            ModelError: a logit is NaN or infinite.
        """
        if batch.not_finite[0]:
            raise ModelError(NOT_FINITE)
        made = {
            name: layer[: batch.finished, self.rows.grid.inner].copy()
            for name, layer in (("classes", batch.classes), ("confidence", batch.confidence))
            if layer is not None
        }
        strips = [step.valid for step in batch.steps if isinstance(step, Strip)]
        if strips:
            outside = ~np.concatenate(strips)  # areas of interest are unknown to the GPU
            for layer in made.values():
                layer[outside] = IGNORE
        place = ((batch.stop or 0) - batch.finished, self.rows.grid.made.start)
        return FinishedRows(**made, place=place)

    def _reserve_tensors(self, windows: int) -> DeviceTensors:
        """Tensors for the largest batch, or for the largest that fits."""
        while True:
            room = min(self._sizes.largest, windows)
            try:
                return self._backend.tensors(room)
            except DeviceLostError:  # no batch is small enough for it
                raise
            except ResourceError as fault:
                self._sizes.smaller(room, fault)

    def __enter__(self) -> _Device:
        return self

    def __exit__(self, *raised: object) -> None:
        with suppress(DeviceLostError), self._cuda.current():
            for stream in (self._memory.upload, self._memory.compute, self._memory.download):
                stream.synchronize()
        with suppress(DeviceLostError):
            self._memory.close()
