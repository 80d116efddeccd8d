"""The state of a run, as read from the manifest of its output folder.

A manifest is a JSON object a line, only appended to. It, and not that a file exists, says what is
done. Records: `run` (settings; what precedes it no longer counts), `scene` (inputs), `block` (a
receipt), `done` (output files with their digests), `failed`, `end`. A line that a crash cut short,
or that is not what was written, is skipped; so are records of other settings than those of the last
`run`, whose own line was lost.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zlib import crc32

from mfnet_runtime.errors import UsageError
from mfnet_runtime.files import FileDigest
from mfnet_runtime.run.inputs import Input

FORMAT = "mfnet-manifest/2"
# A receipt whose names need no unescaping: there may be millions, and few are ever parsed.
RECEIPT = re.compile(
    rb'\{"record": "block", "settings": "([^"\\]*)", "scene": "([^"\\]*)", "file": "([^"\\]*)", '
)
CHECK = b', "check": '  # the last field of a line: CRC-32 of the record without it


@dataclass
class SceneState:
    """The state of a scene in the manifest."""

    inputs: tuple[Input, ...] = ()  # none: the scene was not begun
    # Records are kept as JSON, which takes a quarter of the memory of dictionaries.
    blocks: dict[str, bytes] = field(default_factory=dict)  # by file; none of a finished scene
    done: bytes | None = None
    failed: str | None = None


@dataclass
class RunState:
    """The state of the last run in the manifest."""

    settings: dict[str, Any] | None = None  # None: there was no run
    digest: str = ""  # of the settings
    ended: bool = True
    scenes: dict[str, SceneState] = field(default_factory=dict)
    written: dict[str, set[str]] = field(default_factory=dict)  # files of scenes, of any run

    @property
    def unfinished(self) -> bool:
        """It was interrupted, and left work worth keeping."""
        return not self.ended and any(one.done or one.blocks for one in self.scenes.values())

    def scene(self, name: str) -> SceneState:
        """Return the state of a scene."""
        return self.scenes.setdefault(name, SceneState())

    def add(self, text: bytes) -> None:
        """Take in the next record, as JSON."""
        if receipt := RECEIPT.match(text):
            settings, name, file = map(bytes.decode, receipt.groups())
            if settings == self.digest:
                self.ended = False
                self.scene(name).blocks[file] = text
            return
        record = json.loads(text)
        kind, digest = record["record"], record["settings"]
        if kind == "run":
            if record["format"] != FORMAT:
                raise ValueError(f"format {record['format']!r}, not {FORMAT!r}")
            self.settings, self.digest = dict(record["values"]), digest
            self.scenes = {}
        elif digest != self.digest:
            return
        self.ended = kind == "end"
        if "scene" not in record:
            return
        scene = self.scene(record["scene"])
        match kind:
            case "scene":
                self.scenes[record["scene"]] = SceneState(
                    tuple(
                        Input(one["role"], one["name"], FileDigest(**one["digest"]))
                        for one in record["inputs"]
                    )
                )
            case "block":
                scene.blocks[record["file"]] = text
            case "done":
                scene.done, scene.blocks = text, {}
                self.written.setdefault(record["scene"], set()).update(record["files"])
            case "failed":
                scene.failed, scene.blocks = str(record["error"]), {}


def read_manifest(path: Path) -> RunState:
    """Read a manifest; a missing one is that of no run.

    Raises:
        UsageError: a record is not ours.
    """
    state = RunState()
    if not path.exists():
        return state
    with path.open("rb") as file:
        for line in file:
            record = line.rpartition(CHECK)[0] + b"}"
            if line.rstrip() != line_of(record):
                continue
            try:
                state.add(record)
            except (KeyError, TypeError, ValueError, AttributeError) as fault:
                raise UsageError(
                    f"{path}: a record is malformed ({fault!r}); remove the file, or choose "
                    "another folder with -o"
                ) from fault
    return state


def line_of(record: bytes) -> bytes:
    """Add its check to a record."""
    return b"%b%b%d}" % (record[:-1], CHECK, crc32(record))
