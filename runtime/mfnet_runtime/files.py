"""Files that are there whole or not at all, and checksums of files of any size."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

_CHUNK = 1 << 20  # bytes held at a time


def replace_text(path: Path, text: str) -> None:
    """Write a file beside its place and rename it into it; after a fault the old one is untouched.

    Raises:
        OSError: the folder cannot be written, or the disk is full.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def replace_files(finished: Iterable[tuple[Path, Path]]) -> None:
    """Give finished files their names, in that order, once the bytes of all are on the disk.

    Args:
        finished: Each file, and where on the same file system it goes; older ones are replaced.

    Raises:
        OSError: the disk is full, or a folder cannot be written.
    """
    pairs = list(finished)
    for file, _ in pairs:
        with file.open("r+b") as opened:
            os.fsync(opened.fileno())
    for file, path in pairs:
        os.replace(file, path)
    for folder in {path.parent for _, path in pairs}:
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)  # the names too
        finally:
            os.close(handle)


def sha256_from_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
