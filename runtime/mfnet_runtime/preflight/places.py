"""Where the outputs of a run would go, and whether they would fit. Makes nothing."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from mfnet_runtime.errors import ResourceError, UsageError, missing_package
from mfnet_runtime.preflight.findings import Findings
from mfnet_runtime.preflight.scene import Checkup, Work
from mfnet_runtime.raster.vector_file import require_vectors
from mfnet_runtime.run.paths import require_places
from mfnet_runtime.run.workdir import WORK
from mfnet_runtime.scene.discovery import Scene


def examine_folder(found: Findings, scenes: Sequence[Scene], work: Work) -> None:
    """Findings on where the outputs would go."""
    folder = work.folder
    if work.vectors is not None:
        with found.refusals("output"):
            try:
                require_vectors(work.vectors)
            except ModuleNotFoundError as fault:
                raise UsageError(missing_package(fault.name) or str(fault)) from fault
    if folder is None:
        return
    places = [paths for scene in scenes if (paths := work.paths(scene))]
    with found.refusals("output"):
        require_places(scenes, places, folder)
        here = _existing(folder)
        if not os.access(here, os.W_OK | os.X_OK):
            raise ResourceError(
                f"{folder}: cannot be written ({here} is read-only for you); choose another "
                "folder with -o"
            )
    if (folder / WORK).exists():
        found.warning(
            "output",
            f"{folder}: a run there is not finished; add --resume to go on with it, or --restart "
            "to begin anew",
        )


def examine_disk(found: Findings, folder: Path, checkups: Iterable[Checkup]) -> None:
    """Whether all outputs fit, if they do not compress at all."""
    needs = sum(checkup.estimate.disk for checkup in checkups if checkup.estimate)
    free = shutil.disk_usage(_existing(folder)).free
    text = f"{_size(needs)} of disk at most are needed, {_size(free)} are free"
    if needs > free:
        found.warning("output", f"{folder}: {text}; outputs compress well, but make room")
    else:
        found.ok("output", text)


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that there is."""
    whole = folder.absolute()
    return next(path for path in (whole, *whole.parents) if path.exists())


def _size(count: int) -> str:
    return f"{count / (1 << 20):,.0f} MiB"
