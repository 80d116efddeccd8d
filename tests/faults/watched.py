"""Tells whether any process opened a file: Linux's inotify, which sees what GDAL opens too."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from pathlib import Path

IN_OPEN = 0x20
EVENT = 16  # bytes of one without a name


class Watched:
    """Enter it to watch files; afterwards `opened` holds how often any was opened."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = files
        self.opened = 0

    def __enter__(self) -> Watched:
        libc = ctypes.CDLL(None, use_errno=True)
        self._handle = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        for path in self._files:
            added = libc.inotify_add_watch(self._handle, os.fsencode(path), IN_OPEN)
            assert added >= 0, os.strerror(ctypes.get_errno())
        return self

    def __exit__(self, *raised: object) -> None:
        try:
            self.opened = len(os.read(self._handle, 1 << 16)) // EVENT
        except BlockingIOError:
            self.opened = 0
        os.close(self._handle)
