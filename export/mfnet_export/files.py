"""Output files that appear complete or not at all, and the error that prevents an export."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mfnet_runtime.errors import MFNetError, ResourceError, UsageError
from mfnet_runtime.files import replace_files


class ExportError(MFNetError):
    """A graph cannot be exported, or differs too much from its reference (exit code 3)."""

    exit_code = 3


@contextmanager
def staged_output(path: Path) -> Iterator[Path]:
    """Yield a path of the same name in a temporary folder beside `path`.

    If the block succeeds, all files in that folder are moved beside `path`, `path` itself last.
    After an exception they are deleted, and files that existed before stay as they were.

    Raises:
        UsageError: The folder of `path` does not exist, or `path` is a folder.
        ResourceError: The folder cannot be written, or the disk is full.
    """
    if not path.parent.is_dir():
        raise UsageError(f"{path.parent}: not a folder; create it or choose another output")
    if path.is_dir():
        raise UsageError(f"{path}: is a folder; name the output file")
    with disk_errors(path):
        folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
    try:
        yield folder / path.name
        made = sorted(folder.iterdir(), key=lambda file: file.name == path.name)
        with disk_errors(path):
            replace_files((file, path.with_name(file.name)) for file in made)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn an OSError into a ResourceError that names `path`."""
    try:
        yield
    except OSError as fault:
        raise ResourceError(
            f"{path} cannot be written ({fault.strerror or fault}); "
            "free space or choose another folder"
        ) from fault


def folder_size(folder: Path) -> int:
    """Return the size in bytes of the files in a folder, without those in its subfolders."""
    return sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
