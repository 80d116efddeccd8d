"""Backends that workers open, and that fail there."""

from __future__ import annotations

import errno
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from place_backend import PlaceBackend

from mfnet_runtime.backends.base import Arrays, Feed

POISON = 255  # a pixel of this value kills


def open_place(threads: int) -> PlaceBackend:
    """Open a sound backend."""
    return PlaceBackend()


@dataclass
class OpenFaulty:
    """Opens a backend that fails on a worker."""

    kind: str  # killed, full, or memory
    mark: Path | None = None  # the worker that removes this file fails; None: all, at POISON
    seconds: float = 0.0  # of a call

    def __call__(self, threads: int) -> PlaceBackend:
        backend = _Faulty(seconds=self.seconds)
        backend.fault = self
        return backend


class _Faulty(PlaceBackend):
    fault: OpenFaulty
    failing = False

    def infer(self, feed: Feed) -> Arrays:
        mark = self.fault.mark
        if mark is None:
            self.failing = bool((feed["image"] == 1).any())
        elif _removed(mark):
            self.failing = True
        if self.failing and self.fault.kind == "killed":
            time.sleep(0.2)  # others have their tasks
            os.kill(os.getpid(), signal.SIGKILL)
        if self.failing and self.fault.kind == "memory":
            raise MemoryError("Unable to allocate 1 GiB")
        if self.failing:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().infer(feed)


def _removed(mark: Path) -> bool:
    """Remove a file; False if another process was faster."""
    try:
        mark.unlink()
    except FileNotFoundError:
        return False
    return True
