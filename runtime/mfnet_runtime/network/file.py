"""A file on the network as GDAL reads it: through rasterio's opener, cached, and reading ahead."""

from __future__ import annotations

import hashlib
import io
import re
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mfnet_runtime.errors import SceneError
from mfnet_runtime.files import FileDigest
from mfnet_runtime.network.access import Access, NetworkError
from mfnet_runtime.network.client import Client
from mfnet_runtime.network.url import Url

NAME = "remote"  # of the file, for GDAL
BLOCK = 1 << 16  # bytes
CACHED = 256  # blocks that are kept of a file: 16 MiB
AHEAD = 32  # blocks of a request, at most, while a file is read from front to back: 2 MiB

STREAMS = 16  # places from which a file is read on, such as one of each band

_thread = threading.local()


@contextmanager
def raising_faults() -> Iterator[None]:
    """Raise what went wrong in a read by GDAL, which might take missing bytes for empty pixels."""
    outer, _thread.fault = getattr(_thread, "fault", None), None
    try:
        yield
    finally:
        fault, _thread.fault = _thread.fault, outer
        if fault is not None:
            raise fault


class RemoteError(SceneError):
    """A file on the network cannot be read, or stored; it may be, later."""


class RemoteFile:
    """The bytes of a file on the network.

    Args:
        url: Of the file.
        access: Hosts that may be read.

    Attributes:
        size: In bytes.
        head: The first 64 KiB.
        digest: Digest of size, head, and ETag or modification time.

    Raises:
        RemoteError: It cannot be read.
        SceneError: It is a web page.
    """

    def __init__(self, url: Url, access: Access) -> None:
        self.url, self._client = url, Client(url, access)
        self._tag: str | None = None  # ETag, or else time; None: not yet known, nor is the size
        self.head = self._get(0, BLOCK)
        self._blocks = OrderedDict({0: self.head})
        self._ahead = {1: 1}  # blocks of the last requests, by the block that follows them
        if self.head[:1000].lstrip()[:9].lower().startswith((b"<!doctype", b"<html")):
            raise SceneError(f"{url}: is a web page, no raster; use the link to the file itself")
        sha256 = hashlib.sha256(f"{self._tag}\n".encode() + self.head).hexdigest()
        self.digest = FileDigest(self.size, 0, sha256, sampled=True)

    def open(self, path: str, mode: str = "rb", **_: Any) -> Cursor:
        """Open the file for GDAL: an opener of rasterio's.

        Raises:
            FileNotFoundError: GDAL looks for another file beside it.
        """
        if path.rpartition("/")[2] != NAME:
            raise FileNotFoundError(path)
        return Cursor(self)

    def read(self, start: int, stop: int) -> bytes:
        """Return bytes, fewer at the end of the file.

        Raises:
            RemoteError: They cannot be read.
        """
        stop = min(stop, self.size)
        first, last = start // BLOCK, (stop - 1) // BLOCK
        found = b"".join(self._block(index, last) for index in range(first, last + 1))
        return found[start - first * BLOCK : stop - first * BLOCK]

    def _block(self, index: int, last: int) -> bytes:
        """Return a block; if it is not there, request those up to the last, or some more."""
        if index not in self._blocks:
            ahead = 2 * self._ahead.pop(index, 0)
            stop = index + min(max(last + 1 - index, ahead), AHEAD)
            content = self._get(index * BLOCK, min(stop * BLOCK, self.size))
            for offset in range(0, len(content), BLOCK):
                self._blocks[index + offset // BLOCK] = content[offset : offset + BLOCK]
            self._ahead[stop] = stop - index
            if len(self._ahead) > STREAMS:
                del self._ahead[next(iter(self._ahead))]
            while len(self._blocks) > CACHED:
                self._blocks.popitem(last=False)
        self._blocks.move_to_end(index)
        return self._blocks[index]

    def _get(self, start: int, stop: int) -> bytes:
        try:
            content, headers = self._client.get(stop - start, (start, stop))
            told = headers.get("content-range", "")
            tag = headers.get("etag") or headers.get("last-modified", "")
            if self._tag is None:
                known = re.fullmatch(r"bytes 0-\d+/(\d{1,18})", told)
                if known is None:
                    raise NetworkError(f"the server does not tell its size ({told[:80]!r})")
                self.size, self._tag = int(known[1]), tag
                stop = min(stop, self.size)
            if tag != self._tag:
                raise NetworkError("has changed while it was read; start again with --restart")
            expected = f"bytes {start}-{stop - 1}/{self.size}"
            if told != expected or len(content) != stop - start:
                raise NetworkError(
                    f"the server sends {len(content)} bytes as {told[:80]!r}; expected {expected!r}"
                )
            return content
        except NetworkError as fault:
            raise RemoteError(f"{self.url}: {fault}") from fault


class Cursor(io.RawIOBase):
    """A position in a file on the network. GDAL has several, and no exception passes through it."""

    def __init__(self, file: RemoteFile) -> None:
        self._file, self._at = file, 0

    def read(self, size: int = -1) -> bytes:
        """Return bytes; fewer at the end of the file, or none after a fault."""
        try:
            stop = self._file.size if size < 0 else self._at + size
            content = self._file.read(self._at, stop) if stop > self._at else b""
        except BaseException as fault:  # also Ctrl-C; see raising_faults
            _thread.fault = fault
            return b""
        self._at += len(content)
        return content

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move to an offset."""
        self._at = offset + (0, self._at, self._file.size)[whence]
        return self._at

    def tell(self) -> int:
        """Return the offset."""
        return self._at
