"""Memory, streams and events of one scene on the GPU, and the copies to and from it.

All of it is allocated before the first window, so that a scene that does not fit fails at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mfnet_runtime.contract import Contract
from mfnet_runtime.cuda.device import Buffer, CudaDevice, Event, Stream
from mfnet_runtime.cuda.kernels import PLACEMENT, Piece, Placements, Shares, Sums
from mfnet_runtime.scene.normalize import DsmRange
from mfnet_runtime.tiling.blend import AxisWeights
from mfnet_runtime.tiling.gpu_staging import DeviceBatch, Layout
from mfnet_runtime.tiling.grid import Offset
from mfnet_runtime.tiling.options import BlendName

Table = npt.NDArray[np.float32]


@dataclass(frozen=True)
class OnDevice:
    """Buffers and events of a batch on the device."""

    placements: Buffer
    classes: Buffer
    confidence: Buffer | None
    not_finite: Buffer
    uploaded: Event
    inferring: Event  # recorded before the network
    inferred: Event  # and after it
    finished: Event
    downloaded: Event


class SceneMemory:
    """Memory, streams and events of one scene; all calls need the context to be current.

    Args:
        cuda: The device.
        layout: Numbers of rows in the buffers.
        contract: The model's contract.
        span: The heights scaled to 0 and 1.
        blend: Weights of overlapping windows.
        batches: Batches used in turn.
        room: Windows a batch.

    Raises:
        DeviceMemoryError: it does not fit.
    """

    def __init__(
        self,
        cuda: CudaDevice,
        layout: Layout,
        contract: Contract,
        span: DsmRange,
        blend: BlendName,
        batches: int,
        room: int,
    ) -> None:
        self._cuda, self._layout = cuda, layout
        grid, width = layout.grid, layout.width
        slots, classes = layout.slots, len(contract.classes)
        with ExitStack() as owned:
            self._owned = owned
            self.upload, self.compute, self.download = (self._stream() for _ in range(3))
            self.piece = Piece(
                image=self._buffer(3 * slots * width * layout.stored.itemsize).pointer,
                dsm=self._buffer(slots * width * 4).pointer,
                mask=self._buffer(slots * width).pointer,
                stored=layout.stored,
                slots=slots,
                height=grid.height,
                width=width,
                rule=contract.image,
                span=span,
            )
            sums = self._buffer(classes * layout.rows * width * 4)
            cuda.clear(sums.pointer, sums.size, self.compute)
            self.sums = Sums(sums.pointer, classes, layout.rows, grid.height, width)
            tables = [
                _tables(AxisWeights(blend, offsets, grid.window), offsets)
                for offsets in (grid.rows, grid.columns)
            ]
            self.row_shares, self.column_shares = (places for _, places in tables)
            self.shares = Shares(*(self._uploaded(table) for table, _ in tables))
            self.batches = [self._batch(index, room) for index in range(batches)]
            self._on_device = [self._device_side(batch) for batch in self.batches]
            self.compute.synchronize()
            self._owned = owned.pop_all()

    def of(self, batch: DeviceBatch) -> OnDevice:
        """The buffers of a batch on the device."""
        return self._on_device[batch.index]

    def upload_batch(self, batch: DeviceBatch) -> Placements:
        """Enqueue the copies of a batch's new rows into the ring, and of its placements."""
        piece, there, stream = self.piece, self.of(batch), self.upload
        size, row = piece.stored.itemsize, piece.width
        for slot, at in _ring_parts(batch.first, batch.staged, piece.slots):
            for band in range(3):
                target = piece.image + (band * piece.slots + slot) * row * size
                self._cuda.upload(target, batch.image[band, at], stream)
            self._cuda.upload(piece.dsm + slot * row * 4, batch.dsm[at], stream)
            self._cuda.upload(piece.mask + slot * row, batch.mask[at], stream)
        placements = batch.placements[: batch.windows]
        if batch.windows:
            self._cuda.upload(there.placements.pointer, placements, stream)
        there.uploaded.record(stream)
        return Placements(placements.view(PLACEMENT)[:, 0], there.placements.pointer)

    def download_batch(self, batch: DeviceBatch, rows: int) -> None:
        """Enqueue the copies of finished rows and of the flag for non-finite logits."""
        there, stream = self.of(batch), self.download
        stream.wait(there.finished)
        if rows:
            self._cuda.download(batch.classes[:rows], there.classes.pointer, stream)
            if batch.confidence is not None and there.confidence is not None:
                self._cuda.download(batch.confidence[:rows], there.confidence.pointer, stream)
        self._cuda.download(batch.not_finite, there.not_finite.pointer, stream)
        there.downloaded.record(stream)

    def close(self) -> None:
        """Free everything; nothing may be in use."""
        self._owned.close()

    def _batch(self, index: int, room: int) -> DeviceBatch:
        rows = (self._layout.rows, self._layout.width)
        return DeviceBatch(
            index=index,
            image=self._pinned((3, *rows), self._layout.stored),
            dsm=self._pinned(rows, np.float32),
            mask=self._pinned(rows, np.uint8),
            placements=self._pinned((room, len(PLACEMENT.names or ())), np.int32),
            classes=self._pinned(rows, np.uint8),
            confidence=self._pinned(rows, np.uint8) if self._layout.confidence else None,
            not_finite=self._pinned((1,), np.int32),
        )

    def _device_side(self, batch: DeviceBatch) -> OnDevice:
        return OnDevice(
            placements=self._buffer(batch.placements.nbytes),
            classes=self._buffer(batch.classes.nbytes),
            confidence=self._buffer(batch.classes.nbytes) if self._layout.confidence else None,
            not_finite=self._buffer(batch.not_finite.nbytes),
            uploaded=self._event(),
            inferring=self._event(timing=True),
            inferred=self._event(timing=True),
            finished=self._event(),
            downloaded=self._event(),
        )

    def _uploaded(self, table: Table) -> int:
        buffer = self._buffer(table.nbytes)
        self._cuda.upload(buffer.pointer, table, self.compute)
        self.compute.synchronize()  # the table is freed by the caller
        return buffer.pointer

    def _stream(self) -> Stream:
        stream = self._cuda.stream()
        self._owned.callback(stream.free)
        return stream

    def _event(self, timing: bool = False) -> Event:
        event = self._cuda.event(timing)
        self._owned.callback(event.free)
        return event

    def _buffer(self, size: int) -> Buffer:
        buffer = self._cuda.buffer(size)
        self._owned.callback(buffer.free)
        return buffer

    def _pinned(self, shape: Sequence[int], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        array = self._cuda.pinned(shape, dtype)
        self._owned.callback(self._cuda.unpin, array)
        return array


def _tables(weights: AxisWeights, offsets: Sequence[Offset]) -> tuple[Table, dict[Offset, int]]:
    """The distinct shares along an axis, (n, window), and the index of each offset's share."""
    rows: dict[bytes, int] = {}
    places = {
        offset: rows.setdefault(weights.share(offset).tobytes(), len(rows)) for offset in offsets
    }
    return np.frombuffer(b"".join(rows), np.float32).copy(), places


def _ring_parts(first: int, count: int, slots: int) -> Iterator[tuple[int, slice]]:
    """Split scene rows where they wrap around in the ring: first slot and rows of each part."""
    done = 0
    while done < count:
        slot = (first + done) % slots
        part = slice(done, min(count, done + slots - slot))
        yield slot, part
        done = part.stop
