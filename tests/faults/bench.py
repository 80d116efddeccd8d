"""What all cells of the fault matrix share: the fork server, sound scenes, and their outputs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from socket import create_server
from tempfile import mkdtemp

from faults.runner import EXPORT, RUN, ForkServer
from faults.workplace import Workplace, digests
from support import write_rgbd_model, write_scene

from mfnet_runtime.files import sha256_from_file

IN_MEMORY = Path("/dev/shm")  # no disk to wait for
SIZES = {  # rows and columns of the scenes, pixels
    "small": (40, 48),
    "large": (320, 400),  # some time with --stride 16
}


class Bench:
    """Enter it to start what cells need."""

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
        """Started only where it is needed: it imports torch."""
        return self._opened.enter_context(ForkServer(self.folder, EXPORT, "mfnet_export.export"))

    def place(self, template: str, *, exports: bool = False) -> Workplace:
        """A folder of its own with sound scenes and a model.

        Args:
            template: Of `SIZES`.
            exports: What runs there is mfnet-export.
        """
        self._places += 1
        root = self.folder / str(self._places)
        shutil.copytree(self._template(template), root)
        server = self._exports if exports else self._runs
        place = Workplace(root, server, self._port.getsockname()[1])
        place.under(at_once=exports)
        return place

    def _template(self, name: str) -> Path:
        folder = self.folder / name
        if not folder.exists():
            for seed, scene in enumerate("abc"):
                write_scene(folder / "scenes", scene, *SIZES[name], seed=seed)
            write_rgbd_model(folder / "rgbd.onnx")
        return folder

    def reference(self, place: Workplace, template: str, scenes: Sequence[str]) -> dict[str, str]:
        """SHA-256 of each file that sound scenes come out as, with a place's model and options."""
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
        """Whether anybody connected to the port that hostile files name."""
        try:
            self._port.accept()[0].close()
        except BlockingIOError:
            return False
        return True
