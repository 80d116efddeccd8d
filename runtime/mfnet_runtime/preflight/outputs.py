"""Check that outputs can be written to their folder and fit on its disk."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from mfnet_runtime.checks.findings import Findings
from mfnet_runtime.errors import ResourceError, UsageError, missing_package
from mfnet_runtime.raster.vectors import require_format
from mfnet_runtime.run.manifest import WORK
from mfnet_runtime.run.outputs import OutputPaths, require_places
from mfnet_runtime.scene.discovery import Scene


def check_packages(found: Findings, polygons: str, simplify: bool) -> None:
    """Check that polygons can be simplified and written in a format."""
    with found.refusals("output"):
        try:
            require_format(polygons, simplify)
        except ModuleNotFoundError as error:
            raise UsageError(missing_package(error.name) or str(error)) from error


def check_folder(
    found: Findings, folder: Path, scenes: Sequence[Scene], places: Sequence[OutputPaths]
) -> None:
    """Check that outputs may be written to a folder, without creating anything."""
    with found.refusals("output"):
        require_places(scenes, places, folder)
        there = _existing(folder)
        if not os.access(there, os.W_OK | os.X_OK):
            raise ResourceError(
                f"{folder}: cannot be written ({there} is read-only for you); choose another "
                "folder with -o"
            )
    if (folder / WORK).exists():
        text = f"{folder}: an unfinished run is there; use --resume to continue it, or --restart"
        found.add("output", [("warning", text)])


def check_disk(found: Findings, folder: Path, needed: int) -> None:
    """Compare the free disk space with the bytes that uncompressed outputs need."""
    free = shutil.disk_usage(_existing(folder)).free
    text = f"at most {needed >> 20:,} MiB of disk needed, {free >> 20:,} MiB free"
    if needed > free:
        text = f"{folder}: {text}; outputs compress well, but free some space"
    found.add("output", [("warning" if needed > free else "ok", text)])


def _existing(folder: Path) -> Path:
    """Return the folder, or the nearest one above it that exists."""
    absolute = folder.absolute()
    return next(path for path in (absolute, *absolute.parents) if path.exists())
