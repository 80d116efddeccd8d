"""A scene on the GPU: raw rows go up, classes come down, windows and logits never leave it.

Three streams: one copies new rows up, one cuts, infers, blends and finishes, one copies classes
down. A batch is enqueued before the one in front of it is waited for, so the network does not wait
for copies or for the CPU. Only the caller's thread makes CUDA calls.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Protocol

import numpy as np

from mfnet_runtime.backends.base import Backend, DeviceBackend, DeviceTensors
from mfnet_runtime.cuda.faults import DeviceLostError, DeviceMemoryError
from mfnet_runtime.errors import ModelError, ResourceError
from mfnet_runtime.labels import IGNORE
from mfnet_runtime.scene.normalize import DsmRange
from mfnet_runtime.tiling.batch_size import BatchSize
from mfnet_runtime.tiling.batches import RowSource, Strip
from mfnet_runtime.tiling.blend import NOT_FINITE
from mfnet_runtime.tiling.gpu_buffers import SceneMemory
from mfnet_runtime.tiling.gpu_staging import DeviceBatch, Layout, StagedRows, stored_type
from mfnet_runtime.tiling.grid import BlendName, WindowGrid
from mfnet_runtime.tiling.rows import FinishedRows, Layers

BATCHES = 4  # one being filled, two on the GPU, one written


class GpuBackend(Backend, DeviceBackend, Protocol):
    """A backend that the GPU's way needs."""


class DeviceProcessing:
    """A scene on the GPU; see `processing.Processing`.

    Args:
        backend: Entered.
        reader: The open scene.
        grid: Where the windows lie.
        span: The heights that become 0 and 1.
        blend: How overlapping logits are weighed.
        sizes: Asked for the batch, and told how long each took.
        layers: What to make besides classes: nothing, or confidence.

    Raises:
        ResourceError: the GPU has not the memory for the scene, or for one window.
    """

    def __init__(
        self,
        backend: GpuBackend,
        reader: RowSource,
        grid: WindowGrid,
        span: DsmRange,
        blend: BlendName,
        sizes: BatchSize,
        layers: Layers,
    ) -> None:
        self._backend, self._cuda, self._sizes = backend, backend.cuda, sizes
        stored = stored_type(reader.read(0, 1, grid.under).image.dtype)
        layout = Layout(grid, stored, layers.confidence)
        self.max_strips = layout.max_strips
        self._finished = grid.rows[0].start  # scene row after those of the batches enqueued
        with self._cuda.current():
            self._tensors = self._reserved(len(grid))
            self._kernels = backend.kernels()
            room = min(sizes.largest, len(grid))
            try:
                self._memory = SceneMemory(
                    self._cuda, layout, backend.contract, span, blend, BATCHES, room
                )
            except DeviceMemoryError as fault:
                raise ResourceError(f"{fault}; or use --preprocess cpu") from fault
        self.batches = self._memory.batches
        self.rows = StagedRows(reader, grid, self._memory.row_shares, self._memory.column_shares)

    def inferred(self, batches: Iterable[DeviceBatch]) -> Iterator[tuple[DeviceBatch, float]]:
        """Batches in their order, each after the next one was enqueued."""
        ahead: DeviceBatch | None = None
        for batch in batches:
            # The rows it brings replace those of the batch before `ahead`, which was waited for.
            self._enqueue(batch)
            if ahead is not None:
                yield ahead, self._seconds(ahead)
            ahead = batch
        if ahead is not None:
            yield ahead, self._seconds(ahead)

    def finished(self, batch: DeviceBatch) -> Iterator[FinishedRows]:
        """The rows that a batch finished."""
        if batch.not_finite[0]:
            raise ModelError(NOT_FINITE)
        if batch.finished:
            strips = [step.valid for step in batch.steps if isinstance(step, Strip)]
            outside = ~np.concatenate(strips)  # the GPU knows nothing of areas
            made = {
                name: layer[: batch.finished, self.rows.grid.inner].copy()
                for name, layer in (("classes", batch.classes), ("confidence", batch.confidence))
                if layer is not None
            }
            for layer in made.values():
                layer[outside] = IGNORE
            place = ((batch.stop or 0) - batch.finished, self.rows.grid.made.start)
            yield FinishedRows(**made, place=place)

    def _reserved(self, windows: int) -> DeviceTensors:
        """Tensors for the largest batch, or for the largest that fits."""
        while True:
            room = min(self._sizes.largest, windows)
            try:
                return self._backend.tensors(room)
            except DeviceLostError:  # no batch is small enough for it
                raise
            except ResourceError as fault:
                self._sizes.smaller(room, fault)

    def _enqueue(self, batch: DeviceBatch) -> None:
        """All that is done to a batch, in the order of three streams."""
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

    def _seconds(self, batch: DeviceBatch) -> float:
        """Wait for a batch; the seconds the network took, by the GPU's own clock."""
        there = self._memory.of(batch)
        with self._cuda.current():
            there.downloaded.synchronize()
            seconds = there.inferred.milliseconds_since(there.inferring) / 1000
        self._sizes.took(batch.windows, seconds)
        return seconds

    def __enter__(self) -> DeviceProcessing:
        return self

    def __exit__(self, *raised: object) -> None:
        with suppress(DeviceLostError), self._cuda.current():
            for stream in (self._memory.upload, self._memory.compute, self._memory.download):
                stream.synchronize()
        with suppress(DeviceLostError):
            self._memory.close()
