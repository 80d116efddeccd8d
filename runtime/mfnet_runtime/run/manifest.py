"""The manifest of an output folder: what was done there, a JSON object a line, only appended to.

It, and not that a file exists, says what is done. Records: `run` (settings; what stands before it
no longer counts), `scene` (begun: inputs, blocks, DSM statistics), `piece` (rows on the disk),
`done` (files with their digests), `failed`, `end`. A line that a crash cut short, or that is not
what was written, is passed over; so is what belongs to a run whose own line is lost.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zlib import crc32

from mfnet_runtime.errors import UsageError

FILE = "manifest.jsonl"
FORMAT = "mfnet-manifest/1"
CHECK = b', "check": '  # the last field of a line: CRC-32 of the record without it


@dataclass(frozen=True)
class Piece:
    """Finished rows of a block of columns, on the disk."""

    file: str  # name, without what says the layer
    columns: range
    rows: range
    checksums: dict[str, int]  # CRC-32 of the file of each layer

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types only."""
        return {
            "file": self.file,
            "columns": [self.columns.start, self.columns.stop],
            "rows": [self.rows.start, self.rows.stop],
            "crc32": self.checksums,
        }

    @staticmethod
    def from_json(record: dict[str, Any]) -> Piece:
        """Inverse of `to_json`."""
        spans = (range(*record["columns"]), range(*record["rows"]))
        return Piece(str(record["file"]), *spans, dict(record["crc32"]))


@dataclass
class SceneState:
    """What the manifest says of a scene."""

    begun: dict[str, Any] | None = None
    pieces: dict[str, Piece] = field(default_factory=dict)  # by file: the latest counts
    done: dict[str, Any] | None = None
    failed: str | None = None


@dataclass
class RunState:
    """What the manifest says of the latest run."""

    run: int = 0  # how many there were
    settings: dict[str, Any] | None = None  # None: there was no run
    shards: int = 1
    ended: bool = True
    scenes: dict[str, SceneState] = field(default_factory=dict)
    written: dict[str, set[str]] = field(default_factory=dict)  # files of scenes, of any run

    @property
    def unfinished(self) -> bool:
        """It was interrupted, and some of its work is worth keeping."""
        return not self.ended and any(one.done or one.pieces for one in self.scenes.values())

    def of(self, scene: str) -> SceneState:
        """Made where the manifest says nothing of it."""
        return self.scenes.setdefault(scene, SceneState())

    def add(self, record: dict[str, Any]) -> None:
        """Take in the next record."""
        kind, run = record["record"], int(record["run"])
        if kind != "run" and run != self.run:
            return
        match kind:
            case "run":
                if record["format"] != FORMAT:
                    raise ValueError(f"format {record['format']!r}, not {FORMAT!r}")
                self.settings, self.shards = dict(record["settings"]), int(record["shards"])
                self.run, self.ended = run, False
                self.scenes = {}
            case "resumed":
                self.ended = False
            case "end":
                self.ended = True
            case "scene":
                self.scenes[record["scene"]] = SceneState(begun=record)
            case "piece":
                piece = Piece.from_json(record)
                self.of(record["scene"]).pieces[piece.file] = piece
            case "done":
                self.of(record["scene"]).done = record
                self.written.setdefault(record["scene"], set()).update(record["files"])
            case "failed":
                self.of(record["scene"]).failed = str(record["error"])


class Manifest:
    """The manifest of a folder, open for appending; several processes may append to it.

    Args:
        folder: Of the outputs; exists.

    Raises:
        OSError: it cannot be opened for writing. So of `append`.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        self.state = RunState()
        self._file = self.path.open("a+b", buffering=0)
        self._read = 0  # bytes

    @property
    def handle(self) -> int:
        """Its file descriptor, to lock."""
        return self._file.fileno()

    def append(self, kind: str, **fields: Any) -> None:
        """Add a record, on the disk when this returns, and take in all there are."""
        run = self.state.run + (kind == "run")
        line = _checked(json.dumps({"record": kind, "run": run, **fields}).encode()) + b"\n"
        if not self._ends_a_line():
            line = b"\n" + line  # what a crash left of a record stays by itself
        if os.write(self.handle, line) != len(line):  # one call: records never mix
            raise OSError("a record was cut short")
        os.fsync(self.handle)
        self.refresh()

    def refresh(self) -> RunState:
        """Take in what was appended since, by other processes too.

        Raises:
            UsageError: something in it is not ours.
        """
        fresh = os.pread(self.handle, os.fstat(self.handle).st_size - self._read, self._read)
        whole = fresh[: fresh.rfind(b"\n") + 1]
        self._read += len(whole)
        for line in whole.splitlines():
            record = _parsed(line)
            if record is None:
                continue
            try:
                self.state.add(record)
            except (KeyError, TypeError, ValueError, AttributeError) as fault:
                raise UsageError(
                    f"{self.path}: a record is malformed ({fault!r}); remove the file, or choose "
                    "another folder with -o"
                ) from fault
        return self.state

    def close(self) -> None:
        """Let go of the file, and of locks on it."""
        self._file.close()

    def _ends_a_line(self) -> bool:
        size = os.fstat(self.handle).st_size
        return not size or os.pread(self.handle, 1, size - 1) == b"\n"


def _checked(record: bytes) -> bytes:
    return b"%b%b%d}" % (record[:-1], CHECK, crc32(record))


def _parsed(line: bytes) -> dict[str, Any] | None:
    """The record; None of a line that a crash cut short, or that is not what was written."""
    record = line.rpartition(CHECK)[0] + b"}"
    return json.loads(record) if line == _checked(record) else None
