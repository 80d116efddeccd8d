"""Finished rows of a scene on their way to its files: kept on the disk in pieces, as plain bytes.

A piece is whole on the disk before the manifest names it; whatever the manifest does not name was
cut short and is made again. Knows no raster formats.
"""

from __future__ import annotations

import os
import shutil
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from mfnet_runtime.run.manifest import Piece
from mfnet_runtime.scene.dsm_warp import NAME as WARPED
from mfnet_runtime.tiling.classes import FinishedRows

LARGEST = 64 << 20  # bytes of a piece's classes, about
ROWS = 512  # read at a time: those of a tile

Bytes = npt.NDArray[np.uint8]


class PieceWriter:
    """Takes rows, block after block from the top, and closes a piece every so often.

    Args:
        folder: Where the pieces go.
        layers: Which of the fields of `FinishedRows` are kept.
        note: Told of each piece once it is on the disk.
        seconds: How much work a piece holds at most, about.

    Raises:
        OSError: the disk is full. So of `write`, and when left.
    """

    def __init__(
        self,
        folder: Path,
        layers: Sequence[str],
        note: Callable[[Piece], None],
        seconds: float,
    ) -> None:
        self._folder, self._layers, self._note, self._seconds = folder, layers, note, seconds
        self._piece: _OpenPiece | None = None

    def write(self, rows: FinishedRows) -> None:
        """Append rows to those before them, or begin a piece of the next block."""
        if self._piece is not None and not self._piece.takes(rows):
            self._finish()
        if self._piece is None:
            self._piece = _OpenPiece(self._folder, self._layers, rows)
        self._piece.write(rows)
        old = time.monotonic() - self._piece.started > self._seconds
        if old or self._piece.size > LARGEST:
            self._finish()

    def _finish(self) -> None:
        if self._piece is not None:
            piece, self._piece = self._piece, None
            self._note(piece.finished())

    def __enter__(self) -> PieceWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self._finish()
        elif self._piece is not None:
            self._piece.close()


class _OpenPiece:
    """A piece that is being written: a file for each layer, by (row, band, column)."""

    def __init__(self, folder: Path, layers: Sequence[str], first: FinishedRows) -> None:
        self.started = time.monotonic()
        self.size = 0  # bytes of classes
        row, column = first.place
        self._rows = range(row, row)
        self._columns = range(column, column + first.classes.shape[1])
        self._name = f"{column:08d}-{row:08d}"
        self._checksums = dict.fromkeys(layers, 0)
        with ExitStack() as opened:
            self._files: dict[str, Any] = {
                layer: opened.enter_context(_file(folder, self._name, layer).open("wb"))
                for layer in layers
            }
            self._opened = opened.pop_all()

    def takes(self, rows: FinishedRows) -> bool:
        """Whether rows lie right below its own."""
        return rows.place == (self._rows.stop, self._columns.start)

    def write(self, rows: FinishedRows) -> None:
        for layer, file in self._files.items():
            made: Bytes = getattr(rows, layer)
            by_row = np.ascontiguousarray(made if made.ndim == 2 else made.transpose(1, 0, 2))
            self._checksums[layer] = zlib.crc32(by_row.data, self._checksums[layer])
            file.write(by_row.data)
        self._rows = range(self._rows.start, self._rows.stop + len(rows.classes))
        self.size += rows.classes.size

    def finished(self) -> Piece:
        with self._opened:
            for file in self._files.values():
                file.flush()
                os.fsync(file.fileno())
        return Piece(self._name, self._columns, self._rows, self._checksums)

    def close(self) -> None:
        self._opened.close()


def rows_of_piece(folder: Path, piece: Piece, bands: dict[str, int]) -> Iterator[FinishedRows]:
    """The rows of a piece, from the top.

    Args:
        folder: Where it is.
        piece: Which.
        bands: Number of them of each layer.

    Raises:
        OSError: it is damaged, as is known only after its last row, or cannot be read.
    """
    checksums = dict.fromkeys(bands, 0)
    with ExitStack() as opened:
        files = {
            layer: opened.enter_context(_file(folder, piece.file, layer).open("rb"))
            for layer in bands
        }
        for start in range(piece.rows.start, piece.rows.stop, ROWS):
            count = min(ROWS, piece.rows.stop - start)
            made = {}
            for layer, file in files.items():
                by_row = np.empty((count, bands[layer], len(piece.columns)), np.uint8)
                if file.readinto(by_row.data) != by_row.size:
                    raise OSError("is cut short")
                checksums[layer] = zlib.crc32(by_row.data, checksums[layer])
                one = layer != "probabilities"
                made[layer] = by_row[:, 0] if one else by_row.transpose(1, 0, 2)
            yield FinishedRows(**made, place=(start, piece.columns.start))
    if checksums != piece.checksums:
        raise OSError("is not what was written")


def is_whole(folder: Path, piece: Piece, bands: dict[str, int]) -> bool:
    """Whether its files are there in full; their bytes are compared when they are read."""
    pixels = len(piece.columns) * len(piece.rows)
    files = {_file(folder, piece.file, layer): count * pixels for layer, count in bands.items()}
    return piece.checksums.keys() == bands.keys() and all(
        path.is_file() and path.stat().st_size == size for path, size in files.items()
    )


def remove_piece(folder: Path, piece: Piece) -> None:
    """Remove its files."""
    for layer in piece.checksums:
        _file(folder, piece.file, layer).unlink(missing_ok=True)


def remove_others(folder: Path, pieces: Iterable[Piece]) -> None:
    """Remove what a crash left in a folder of pieces."""
    kept = {piece.file for piece in pieces}
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif path.stem not in kept and path.suffix != ".lock" and path.name != WARPED:
            path.unlink()


def missing_rows(pieces: Iterable[Piece], columns: range, rows: range) -> list[range]:
    """Rows of a block of columns that no piece holds, from the top."""
    done = sorted(
        (piece.rows for piece in pieces if piece.columns == columns), key=lambda held: held.start
    )
    found, at = [], rows.start
    for held in done:
        if held.start > at:
            found.append(range(at, min(held.start, rows.stop)))
        at = max(at, held.stop)
    found.append(range(at, rows.stop))
    return [span for span in found if len(span)]


def _file(folder: Path, name: str, layer: str) -> Path:
    return folder / f"{name}.{layer}"
