"""Output files that appear whole or not at all, and sizes. Knows no models."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mfnet_runtime.errors import ResourceError, UsageError


@contextmanager
def staged(path: Path) -> Iterator[Path]:
    """A path of the same name in a fresh folder beside `path`; on success its files move there.

    Whatever lies in that folder when the block ends well is moved beside `path`, `path` itself
    last; after any exception all of it is gone and what was there before is untouched.

    Raises:
        UsageError: the folder of `path` does not exist, or `path` is a folder.
        ResourceError: that folder cannot be written, or the disk is full.
    """
    if not path.parent.is_dir():
        raise UsageError(f"{path.parent}: not a folder; create it or choose another output")
    if path.is_dir():
        raise UsageError(f"{path}: is a folder; name the output file")
    with writing(path):
        folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
    try:
        yield folder / path.name
        with writing(path):
            made = sorted(folder.iterdir(), key=lambda file: file.name == path.name)
            for file in made:
                _flush(file)
            for file in made:
                os.replace(file, path.with_name(file.name))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the disk refuses into a ResourceError that names `path`."""
    try:
        yield
    except OSError as fault:
        raise ResourceError(
            f"{path} cannot be written ({fault.strerror or fault}); "
            "free space or choose another folder"
        ) from fault


def size_of_files(folder: Path) -> int:
    """Bytes of the files in a folder, those of folders in it aside."""
    return sum(file.stat().st_size for file in folder.iterdir() if file.is_file())


def size_text(size: int) -> str:
    """Bytes for people: "412.3 MB", decimal as disks and networks count."""
    amount = float(size)
    for unit in ("bytes", "kB", "MB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}" if unit == "bytes" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.2f} GB"


def _flush(file: Path) -> None:
    """Bytes reach the disk before the name does."""
    with file.open("rb") as opened:
        os.fsync(opened.fileno())
