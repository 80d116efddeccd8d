"""Pieces of a scene: whole on the disk before they are named, and no others are believed."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from mfnet_runtime.run.chunks import (
    PieceWriter,
    is_whole,
    missing_rows,
    remove_others,
    remove_piece,
    rows_of_piece,
)
from mfnet_runtime.run.manifest import Piece
from mfnet_runtime.tiling.classes import FinishedRows

BANDS = {"classes": 1, "probabilities": 3}


def rows(first: int, column: int = 0, count: int = 4) -> FinishedRows:
    rng = np.random.default_rng((first, column))
    return FinishedRows(
        rng.integers(0, 4, (count, 7), dtype=np.uint8),
        None,
        rng.integers(0, 101, (3, count, 7), dtype=np.uint8),
        (first, column),
    )


def written(folder: Path, made: list[FinishedRows], seconds: float = 60.0) -> list[Piece]:
    noted: list[Piece] = []
    with PieceWriter(folder, list(BANDS), noted.append, seconds) as writer:
        for some in made:
            writer.write(some)
    return noted


def test_what_was_written_is_read(tmp_path: Path) -> None:
    made = [rows(0), rows(4), rows(0, 7), rows(4, 7)]
    pieces = written(tmp_path, made)
    assert [(piece.columns, piece.rows) for piece in pieces] == [
        (range(0, 7), range(0, 8)),
        (range(7, 14), range(0, 8)),
    ]
    for piece, parts in zip(pieces, (made[:2], made[2:]), strict=True):
        assert Piece.from_json(piece.to_json()) == piece
        (found,) = rows_of_piece(tmp_path, piece, BANDS)
        assert found.place == parts[0].place
        for layer, axis in (("classes", 0), ("probabilities", 1)):
            expected = np.concatenate([getattr(part, layer) for part in parts], axis)
            np.testing.assert_array_equal(getattr(found, layer), expected)


def test_bytes_are_on_the_disk_before_anybody_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda handle: calls.append("sync"))
    with PieceWriter(tmp_path, list(BANDS), lambda piece: calls.append("told"), 0) as writer:
        writer.write(rows(0))
        writer.write(rows(4))
    assert calls == ["sync", "sync", "told"] * 2


def test_a_fault_leaves_the_piece_unnamed(tmp_path: Path) -> None:
    noted: list[Piece] = []

    def fails() -> None:
        with PieceWriter(tmp_path, list(BANDS), noted.append, 60) as writer:
            writer.write(rows(0))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fails()
    assert noted == []


def test_bytes_that_differ_are_not_believed(tmp_path: Path) -> None:
    (piece,) = written(tmp_path, [rows(0)])
    path = next(tmp_path.glob("*.probabilities"))
    data = path.read_bytes()
    path.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    assert is_whole(tmp_path, piece, BANDS), "as far as can be told without reading"
    with pytest.raises(OSError, match="is not what was written"):
        list(rows_of_piece(tmp_path, piece, BANDS))
    path.write_bytes(data[:-1])
    assert not is_whole(tmp_path, piece, BANDS)
    with pytest.raises(OSError, match="is cut short"):
        list(rows_of_piece(tmp_path, piece, BANDS))
    assert not is_whole(tmp_path, piece, {"classes": 1}), "made with other layers"
    remove_piece(tmp_path, piece)
    assert list(tmp_path.iterdir()) == []


def test_what_nobody_names_is_removed(tmp_path: Path) -> None:
    first, second = written(tmp_path, [rows(0), rows(0, 7)])
    (tmp_path / ".partial-x").mkdir()
    (tmp_path / "finish.lock").touch()
    remove_others(tmp_path, [second])
    kept = sorted(path.name for path in tmp_path.iterdir())
    assert kept == [f"{second.file}.classes", f"{second.file}.probabilities", "finish.lock"]
    assert not is_whole(tmp_path, first, BANDS)


@pytest.mark.parametrize(
    ("held", "missing"),
    [
        ([], [range(10, 50)]),
        ([(10, 50)], []),
        ([(10, 20), (30, 40)], [range(20, 30), range(40, 50)]),
        ([(0, 15), (45, 60)], [range(15, 45)]),
        ([(30, 40), (10, 35)], [range(40, 50)]),
        ([(50, 60)], [range(10, 50)]),
    ],
)
def test_rows_that_no_piece_holds(held: list[tuple[int, int]], missing: list[range]) -> None:
    columns = range(0, 7)
    pieces = [Piece(str(span), columns, range(*span), {}) for span in held]
    pieces.append(Piece("beside", range(7, 14), range(10, 50), {}))
    assert missing_rows(pieces, columns, range(10, 50)) == missing
