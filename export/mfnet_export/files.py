"""Output files that appear valid and complete or not at all, and the error that prevents it."""

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
def staged_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `folder`, whose files are moved into it on success.

    Files of other names that `folder` has stay; after an exception all do.

    Raises:
        ResourceError: The folder cannot be made or written, or the disk is full.
    """
    with disk_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(
            tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".tmp", dir=folder.parent)
        )
    try:
        yield partial
        made = [file for file in sorted(partial.rglob("*")) if file.is_file()]
        pairs = [(file, folder / file.relative_to(partial)) for file in made]
        with disk_errors(folder):
            for _, path in pairs:
                path.parent.mkdir(parents=True, exist_ok=True)
            replace_files(pairs)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


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


def require_valid(path: Path, kind: str = "exported") -> None:
    """Refuse a file that onnx's checker rejects.

    Args:
        path: The file; weights beside it are checked too.
        kind: Kind of graph, for the message.

    Raises:
        ExportError: The graph is not valid ONNX.
    """
    import onnx

    try:
        onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as fault:
        reason = " ".join(str(fault).split())[:200]
        raise ExportError(f"{path.name}: the {kind} graph is not valid ONNX ({reason})") from fault
