"""The files of a scene, and whether they are still what they were when it was planned."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mfnet_runtime.errors import SceneError
from mfnet_runtime.files import FileDigest
from mfnet_runtime.scene.discovery import Scene


class InputChangedError(SceneError):
    """An input is not the file from which blocks or outputs were made; these are kept."""


@dataclass(frozen=True)
class Input:
    """A file of a scene; its name does not depend on where the scene lies."""

    role: str  # "image" or "dsm"
    name: str  # relative to the folder of that raster
    digest: FileDigest

    @staticmethod
    def of(scene: Scene, role: str, path: Path) -> Input:
        """Read a file.

        Raises:
            SceneError: it cannot be read.
        """
        try:
            digest = FileDigest.of(path)
        except OSError as fault:
            raise SceneError(
                f"{path}: cannot be read ({fault.strerror}); check the disk it is on"
            ) from fault
        return Input(role, os.path.relpath(path, _folder(scene, role)), digest)


def require_unchanged(
    scene: Scene, inputs: Sequence[Input], files: Iterable[tuple[str, Path]] = ()
) -> None:
    """Compare the files of a scene with its inputs as recorded.

    Args:
        scene: Where they are now.
        inputs: As they were.
        files: All that the scene consists of now, each with its role.

    Raises:
        InputChangedError: a file has other bytes, or there is a new one.
    """
    for known in inputs:
        path = _folder(scene, known.role) / known.name
        if not known.digest.matches(path):
            raise InputChangedError(
                f"{path}: has changed since the run began; put the old file back, or begin anew "
                "with --restart"
            )
    names = {(known.role, known.name) for known in inputs}
    for role, path in files:
        if (role, os.path.relpath(path, _folder(scene, role))) not in names:
            raise InputChangedError(
                f"{path}: did not exist when the run began; remove it, or begin anew with --restart"
            )


def _folder(scene: Scene, role: str) -> Path:
    return (scene.image if role == "image" else scene.dsm).parent
