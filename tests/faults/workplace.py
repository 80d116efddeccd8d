"""Where a cell of the fault matrix happens: a model, three scenes, an output folder.

The fault is in scene b; scenes a and c stay sound, so that one runs before the fault and one after.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from socket import create_server
from tempfile import mkdtemp
from typing import Any

import numpy.typing as npt
from faults.runner import EXPORT, RUN, Conditions, Ended, ForkServer, Running
from support import UTM, read, write_raster, write_rgbd_model, write_scene

from mfnet_runtime.files import sha256_from_file
from mfnet_runtime.run.manifest import FILE
from mfnet_runtime.run.state import RunState, read_manifest

OTHERS = ("a", "c")  # scenes without a fault
# the same engine wherever tests run
ENGINE = "--backend onnxruntime --threads 1 --json".split()
SIZES = {"small": (40, 48), "large": (320, 400)}  # rows and columns; large takes some time
IN_MEMORY = Path("/dev/shm")  # no disk to wait for
IN_OPEN, EVENT = 0x20, 16  # of inotify: the flag, and bytes of an event without a name

Array = npt.NDArray[Any]


@dataclass
class Workplace:
    """The folder of one cell: planting a fault changes it, and then the command runs there."""

    root: Path
    server: ForkServer
    port: int  # of this machine, where nobody may connect
    words: list[str] = field(default_factory=list)  # options in addition to ENGINE
    conditions: Conditions = field(default_factory=Conditions)
    secrets: list[Path] = field(default_factory=list)  # files that nobody may open
    source: Path | None = None  # of the scenes, if it is not their folder
    checkpoint: Path | None = None  # exported instead of a run

    def __post_init__(self) -> None:
        self.model, self.scenes, self.out = (
            self.root / name for name in ("rgbd.onnx", "scenes", "out")
        )
        self.image, self.dsm = (self.scenes / part / "b.tif" for part in ("image", "dsm"))

    def start(self, *more: object) -> Running:
        """Start the command."""
        words: list[object] = [self.model, self.source or self.scenes, "-o", self.out, *ENGINE]
        command = RUN
        if self.checkpoint:
            words, command = ["--ckpt", self.checkpoint, "-o", self.root / "best.onnx"], EXPORT
        return self.server.start([*words, *self.words, *more], self.root, self.conditions, command)

    def run(self, *more: object) -> Ended:
        """Run the command to its end."""
        return self.start(*more).wait()

    def under(self, **conditions: Any) -> None:
        """Change the conditions of all later starts."""
        self.conditions = replace(self.conditions, **conditions)

    def write(
        self, image: Array | None = None, dsm: Array | None = None, name: str = "b", **profile: Any
    ) -> None:
        """Write pixels or heights of a scene."""
        for folder, array in (("image", image), ("dsm", dsm)):
            if array is not None:
                write_raster(self.scenes / folder / f"{name}.tif", array, **{**UTM, **profile})

    def pixels(self) -> Array:
        """Return the image with the fault."""
        return read(self.image, None)

    def heights(self) -> Array:
        """Return the DSM with the fault."""
        return read(self.dsm)

    def classes(self, name: str = "b") -> Array:
        """Return a class map."""
        return read(self.out / f"{name}.tif")

    def manifest(self) -> RunState:
        """Return what the manifest says."""
        return read_manifest(self.out / FILE)


class Bench:
    """A context manager for what all cells share: servers, sound scenes and their outputs."""

    def __enter__(self) -> Bench:
        with ExitStack() as opened:
            within = IN_MEMORY if os.access(IN_MEMORY, os.W_OK) else None
            self.folder = Path(mkdtemp(prefix="mfnet-faults-", dir=within))
            opened.callback(shutil.rmtree, self.folder)
            self._runs = opened.enter_context(ForkServer(self.folder, RUN))
            self._port = opened.enter_context(create_server(("127.0.0.1", 0)))
            self._port.setblocking(False)
            self._opened = opened.pop_all()
        self._references: dict[tuple[object, ...], dict[str, str]] = {}
        self._places = 0
        return self

    def __exit__(self, *raised: object) -> None:
        self._opened.close()

    @cached_property
    def _exports(self) -> ForkServer:
        """The server for mfnet-export, which imports torch."""
        return self._opened.enter_context(ForkServer(self.folder, EXPORT, "mfnet_export.export"))

    def place(self, template: str = "small", *, exports: bool = False) -> Workplace:
        """Return a new folder with sound scenes and a model.

        Args:
            template: One of `SIZES`.
            exports: Whether mfnet-export runs there.
        """
        source = self.folder / template
        if not source.exists():
            for seed, scene in enumerate("abc"):
                write_scene(source / "scenes", scene, *SIZES[template], seed=seed)
            write_rgbd_model(source / "rgbd.onnx")
        self._places += 1
        root = shutil.copytree(source, self.folder / str(self._places))
        server = self._exports if exports else self._runs
        return Workplace(
            root, server, self._port.getsockname()[1], conditions=Conditions(at_once=exports)
        )

    def reference(self, place: Workplace, template: str, scenes: Sequence[str]) -> dict[str, str]:
        """Return the digests of sound scenes' outputs with a place's model and options."""
        key = (sha256_from_file(place.model), template, *place.words, *scenes)
        if key not in self._references:
            sound = self.place(template)
            shutil.copy(place.model, sound.model)
            sound.words = list(place.words)
            ended = sound.run(*(word for name in scenes for word in ("--only", name)))
            assert ended.code == 0, ended.err
            self._references[key] = digests(sound.out)
        return self._references[key]

    def was_reached(self) -> bool:
        """Return whether anybody connected to the port that hostile files name."""
        try:
            self._port.accept()[0].close()
        except BlockingIOError:
            return False
        return True


@contextmanager
def unopened(files: Sequence[Path]) -> Iterator[None]:
    """Assert that no process opens these files; the kernel's inotify sees GDAL's opening, too."""
    libc = ctypes.CDLL(None, use_errno=True)
    handle = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    for path in files:
        added = libc.inotify_add_watch(handle, os.fsencode(path), IN_OPEN)
        assert added >= 0, os.strerror(ctypes.get_errno())
    try:
        yield
        with suppress(BlockingIOError):
            raise AssertionError(f"opened {len(os.read(handle, 1 << 16)) // EVENT} times")
    finally:
        os.close(handle)


def row_of(ended: Ended, name: str = "b") -> dict[str, Any]:
    """Return a scene's row of the JSON summary."""
    rows: list[dict[str, Any]] = json.loads(ended.out)["scenes"]
    return next(row for row in rows if row["scene"] == name)


def digests(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file in a folder except the manifest."""
    files = sorted(path for path in folder.glob("*") if path.is_file() and path.name != FILE)
    return {path.name: sha256_from_file(path) for path in files}


def snapshot(folder: Path) -> dict[bytes, tuple[int, int]]:
    """Return size and time of everything in a folder, links not followed."""
    status = {os.fsencode(path): os.lstat(path) for path in folder.rglob("*")}
    return {path: (found.st_size, found.st_mtime_ns) for path, found in status.items()}
