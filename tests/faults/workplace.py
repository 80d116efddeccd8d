"""Where a cell of the fault matrix happens: a model, three scenes, an output folder; a fault in b.

Scenes a and c stay sound, so that one runs before the fault and one after it.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy.typing as npt
from faults.runner import EXPORT, RUN, Conditions, Ended, ForkServer, Running
from support import UTM, read, write_raster

from mfnet_runtime.files import sha256_from_file
from mfnet_runtime.run.manifest import FILE, RunState

OTHERS = ("a", "c")  # scenes that no fault is in
# The same engine wherever the tests run, and pieces as small as they get.
ENGINE = "--backend onnxruntime --threads 1 --checkpoint 0 --json".split()

Array = npt.NDArray[Any]


@dataclass
class Workplace:
    """A folder of one cell: what plants a fault changes it, then it runs."""

    root: Path
    server: ForkServer
    port: int  # of this machine, where nobody may connect
    words: list[str] = field(default_factory=list)  # options besides those of every cell
    conditions: Conditions = field(default_factory=Conditions)
    secrets: list[Path] = field(default_factory=list)  # that nobody may open
    source: Path | None = None  # of the scenes, where it is another than their folder
    checkpoint: Path | None = None  # then this is exported, and nothing is run

    @property
    def model(self) -> Path:
        return self.root / "rgbd.onnx"

    @property
    def scenes(self) -> Path:
        return self.root / "scenes"

    @property
    def out(self) -> Path:
        return self.root / "out"

    @property
    def image(self) -> Path:
        """Of the scene that the fault is in."""
        return self.scenes / "image" / "b.tif"

    @property
    def dsm(self) -> Path:
        """Of the scene that the fault is in."""
        return self.scenes / "dsm" / "b.tif"

    def start(self, *more: object) -> Running:
        """The command with all its words."""
        words = [self.model, self.source or self.scenes, "-o", self.out, *ENGINE]
        command = RUN
        if self.checkpoint:
            words, command = ["--ckpt", self.checkpoint, "-o", self.root / "best.onnx"], EXPORT
        words = [*words, *self.words, *more]
        return self.server.start(words, self.root, self.conditions, command)

    def run(self, *more: object) -> Ended:
        """The same, to its end."""
        return self.start(*more).wait()

    def under(self, **conditions: Any) -> None:
        """Change the conditions of all later starts."""
        self.conditions = replace(self.conditions, **conditions)

    def write(
        self, image: Array | None = None, dsm: Array | None = None, name: str = "b", **profile: Any
    ) -> None:
        """Pixels or heights of a scene, the one of the fault if not told."""
        for folder, array in (("image", image), ("dsm", dsm)):
            if array is not None:
                path = self.scenes / folder / f"{name}.tif"
                write_raster(path, array, **{**UTM, **profile})

    def pixels(self) -> Array:
        """Of the image, (band, row, column)."""
        return read(self.image, None)

    def heights(self) -> Array:
        """Of the DSM, (row, column)."""
        return read(self.dsm)

    def classes(self, name: str = "b") -> Array:
        """What came out, (row, column)."""
        return read(self.out / f"{name}.tif")

    def manifest(self) -> RunState:
        """What it says; as of no run where there is none."""
        state = RunState()
        path = self.out / FILE
        for line in path.read_text().splitlines() if path.is_file() else ():
            with suppress(json.JSONDecodeError):  # one that was cut short
                state.add(json.loads(line))
        return state


def row_of(ended: Ended, name: str = "b") -> dict[str, Any]:
    """A scene's row of the JSON summary."""
    rows: list[dict[str, Any]] = json.loads(ended.out)["scenes"]
    return next(row for row in rows if row["scene"] == name)


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of each file in a folder besides the manifest."""
    files = sorted(path for path in folder.glob("*") if path.is_file() and path.name != FILE)
    return {path.name: sha256_from_file(path) for path in files}


def snapshot(folder: Path) -> dict[bytes, tuple[int, int]]:
    """Size and time of everything in a folder, links not followed."""
    found = {}
    for path in folder.rglob("*"):
        status = os.lstat(path)
        found[os.fsencode(path)] = (status.st_size, status.st_mtime_ns)
    return found
