"""Scaling, cutting, blending and argmax in numpy, around any backend."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mfnet_runtime.backends.base import Backend
from mfnet_runtime.contract import Contract
from mfnet_runtime.cuda.faults import DeviceLostError
from mfnet_runtime.errors import ResourceError
from mfnet_runtime.scene.normalize import DsmRange, FloatArray, padded, scaled_dsm, scaled_image
from mfnet_runtime.scene.reader import SceneData
from mfnet_runtime.tiling.batch_size import BatchSize
from mfnet_runtime.tiling.batches import MAX_STRIPS, Batch, Place, RowSource, WindowRows
from mfnet_runtime.tiling.blend import LogitMosaic
from mfnet_runtime.tiling.grid import WindowGrid
from mfnet_runtime.tiling.published import PUBLISHED, PublishedMosaic, SumName
from mfnet_runtime.tiling.rows import FinishedRows, Layers, finished_from_logits

BATCHES = 3  # in memory: one being filled, one inferred, one blended


@dataclass(kw_only=True)
class HostBatch(Batch):
    """Windows and their logits, in memory."""

    image: npt.NDArray[np.floating[Any]]  # (N, 3, window, window) in [0, 1]
    dsm: npt.NDArray[np.floating[Any]]  # (N, 1, window, window) in [0, 1]
    logits: FloatArray  # (N, classes, window, window)

    @staticmethod
    def allocated(largest: int, contract: Contract, dtype: npt.DTypeLike) -> HostBatch:
        """Room for up to `largest` windows, in the number type of the model's inputs."""
        side = (contract.window, contract.window)
        return HostBatch(
            image=np.empty((largest, 3, *side), dtype),
            dsm=np.empty((largest, 1, *side), dtype),
            logits=np.empty((largest, len(contract.classes), *side), np.float32),
        )


class ScaledRows(WindowRows[HostBatch]):
    """Rows under one row of windows, scaled once."""

    def __init__(
        self, reader: RowSource, grid: WindowGrid, contract: Contract, span: DsmRange
    ) -> None:
        super().__init__(reader, grid)
        self._contract, self._span = contract, span
        self._image = np.empty((3, *self.valid.shape), np.float32)
        self._dsm = np.empty((1, *self.valid.shape), np.float32)

    def take(self, fresh: SceneData, kept: int, batch: HostBatch) -> None:
        """Scale new rows."""
        for plane in (*self._image, *self._dsm):
            plane[:kept] = plane[len(plane) - kept :]
        image, dsm = self._image[:, kept:], self._dsm[0, kept:]
        scaled_image(fresh.image, fresh.image_valid, self._contract.image, image)
        scaled_dsm(fresh.dsm, fresh.dsm_valid, self._span, dsm)

    def cut(self, place: Place, batch: HostBatch) -> None:
        """Copy a window into a batch; FP16 inputs are rounded to nearest even here."""
        side = self.grid.window
        left = place.column.start - self.grid.under.start
        across = slice(left, left + side)
        for target, source in ((batch.image, self._image), (batch.dsm, self._dsm)):
            target[batch.windows] = padded(source[:, :, across], side)  # no copy if large enough


class HostProcessing:
    """A scene in numpy; see `processing.Processing`.

    Args:
        backend: Entered.
        reader: The open scene.
        grid: Where the windows lie, and which columns to make.
        span: The heights that become 0 and 1.
        blend: How overlapping logits are weighed.
        sizes: Asked for the batch, and told how long each took.
        layers: What to make besides classes.
    """

    max_strips = MAX_STRIPS

    def __init__(
        self,
        backend: Backend,
        reader: RowSource,
        grid: WindowGrid,
        span: DsmRange,
        blend: SumName,
        sizes: BatchSize,
        layers: Layers,
    ) -> None:
        contract, dtype = backend.contract, backend.inputs[0].dtype
        room = min(sizes.largest, len(grid))
        self.batches = [HostBatch.allocated(room, contract, dtype) for _ in range(BATCHES)]
        self.rows = ScaledRows(reader, grid, contract, span)
        self._backend, self._sizes, self._layers = backend, sizes, layers
        classes = len(contract.classes)
        self._mosaic = (
            PublishedMosaic(grid, classes)
            if blend == PUBLISHED
            else LogitMosaic(grid, classes, blend)
        )

    def inferred(self, batches: Iterable[HostBatch]) -> Iterator[tuple[HostBatch, float]]:
        """One batch after the other, in smaller calls if the backend refuses."""
        for batch in batches:
            yield batch, self._infer(batch)

    def _infer(self, batch: HostBatch) -> float:
        """Fill in the logits; returns seconds."""
        # filled before a smaller limit was known, a batch may be above it
        seconds, done, call = 0.0, 0, min(batch.windows, self._sizes.largest)
        while done < batch.windows:
            part = slice(done, min(done + call, batch.windows))
            feed = {"image": batch.image[part], "dsm": batch.dsm[part]}
            started = time.perf_counter()
            try:
                logits = self._backend.infer(feed)["logits"]
            except DeviceLostError:  # no batch is small enough for it
                raise
            except ResourceError as fault:
                call = self._sizes.smaller(part.stop - done, fault)
                continue
            took = time.perf_counter() - started
            self._sizes.took(part.stop - done, took)
            batch.logits[part] = logits  # the backend's own array lives until its next call only
            seconds, done = seconds + took, part.stop
        return seconds

    def finished(self, batch: HostBatch) -> Iterator[FinishedRows]:
        """Blend the windows of a batch and give the rows they finish."""
        logits = iter(batch.logits)
        for step in batch.steps:
            if isinstance(step, Place):
                self._mosaic.add(step.row, step.column, next(logits))
            else:
                place = (self._mosaic.top, self._mosaic.grid.made.start)
                done = self._mosaic.finish_above(step.stop)
                yield finished_from_logits(done, step.valid, self._layers, place)

    def __enter__(self) -> HostProcessing:
        return self

    def __exit__(self, *raised: object) -> None:
        return None
