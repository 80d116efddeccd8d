"""Atomic writes, digests and locks of files."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_CHUNK = 1 << 20  # bytes held at a time
WHOLE = 64 << 20  # bytes; only samples of larger files are read
SAMPLE, SAMPLES = 1 << 20, 64  # bytes of each sample, and their number


def user_cache_folder() -> Path:
    """Return the user's folder for files that can be made again; it may not exist yet."""
    if folder := os.environ.get("XDG_CACHE_HOME"):
        return Path(folder) / "mfnet"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home())) / "mfnet" / "Cache"
    caches = "Library/Caches" if sys.platform == "darwin" else ".cache"
    return Path.home() / caches / "mfnet"


def replace_text(path: Path, text: str) -> None:
    """Write a text file as `replace_bytes` does."""
    replace_bytes(path, text.encode())


def replace_bytes(path: Path, content: bytes) -> None:
    """Write a file under a temporary name and rename it; an error leaves the old file.

    Raises:
        OSError: the folder cannot be written, or the disk is full.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_bytes(content)
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def replace_files(finished: Iterable[tuple[Path, Path]]) -> None:
    """Rename finished files in the order given, once the bytes of all are on disk.

    Args:
        finished: Each file and its final path on the same file system; old files are replaced.

    Raises:
        OSError: the disk is full, or a folder cannot be written.
    """
    pairs = list(finished)
    for file, _ in pairs:
        with file.open("r+b") as opened:
            os.fsync(opened.fileno())
    for file, path in pairs:
        os.replace(file, path)
    if sys.platform == "win32":  # cannot open folders, and needs no such call
        return
    for folder in {path.parent for _, path in pairs}:
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)  # the new names
        finally:
            os.close(handle)


def sha256_from_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


@dataclass(frozen=True)
class FileDigest:
    """The identity of a file's content, by which a later change is noticed."""

    size: int  # bytes
    modified: int  # nanoseconds since 1970
    sha256: str  # of all bytes, or of samples
    sampled: bool

    @staticmethod
    def of(path: Path, *, whole: bool = False) -> FileDigest:
        """Read a file; of a large one only samples, unless `whole`.

        Raises:
            OSError: it cannot be read.
        """
        status = path.stat()
        sampled = status.st_size > WHOLE and not whole
        sha256 = _sha256_from_samples(path, status.st_size) if sampled else sha256_from_file(path)
        return FileDigest(status.st_size, status.st_mtime_ns, sha256, sampled)

    def matches(self, path: Path) -> bool:
        """Compare a file; it is read only if its modification time differs.

        Samples say nothing about the bytes between them: a large file with another modification
        time does not match.
        """
        try:
            status = path.stat()
            if status.st_size != self.size:
                return False
            if status.st_mtime_ns == self.modified:
                return True
            return not self.sampled and sha256_from_file(path) == self.sha256
        except OSError:
            return False


def _sha256_from_samples(path: Path, size: int) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for index in range(SAMPLES):
            file.seek(index * (size - SAMPLE) // (SAMPLES - 1))
            digest.update(file.read(SAMPLE))
    return digest.hexdigest()


def lock(handle: int) -> bool:
    """Lock an open file until it is closed; return False if another process holds the lock.

    Windows has no `flock`; there the lock always succeeds.
    """
    if sys.platform == "win32":
        return True
    import fcntl

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
