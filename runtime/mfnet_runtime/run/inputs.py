"""The files of a scene, and whether they are still what they were when it was planned."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mfnet_runtime.errors import SceneError
from mfnet_runtime.files import FileDigest
from mfnet_runtime.network.file import RemoteFile
from mfnet_runtime.network.url import RasterPath, Url
from mfnet_runtime.raster.limits import RasterLimits
from mfnet_runtime.scene.discovery import Scene


class InputChangedError(SceneError):
    """An input is not the file from which blocks or outputs were made; these are kept."""


@dataclass(frozen=True)
class Input:
    """A file of a scene; its name does not depend on where the scene lies."""

    role: str  # "image" or "dsm"
    name: str  # relative to the folder of that raster; on the network, without it
    digest: FileDigest

    @staticmethod
    def of(scene: Scene, role: str, path: RasterPath, limits: RasterLimits) -> Input:
        """Read a file, or the beginning of one on the network.

        Raises:
            SceneError: it cannot be read.
        """
        if isinstance(path, Url):
            return Input(role, path.name, RemoteFile(path, limits.access).digest)
        try:
            digest = FileDigest.of(path)
        except OSError as fault:
            raise SceneError(
                f"{path}: cannot be read ({fault.strerror}); check the disk it is on"
            ) from fault
        return Input(role, _name(scene, role, path), digest)


def require_unchanged(
    scene: Scene,
    inputs: Sequence[Input],
    limits: RasterLimits | None = None,
    files: Iterable[tuple[str, RasterPath]] = (),
) -> None:
    """Compare the files of a scene with its inputs as recorded.

    Args:
        scene: Where they are now.
        inputs: As they were.
        limits: On the files; None leaves out those on the network, which take a request each.
        files: All that the scene consists of now, each with its role.

    Raises:
        InputChangedError: a file has other bytes, or there is a new one.
        RemoteError: a file on the network cannot be read.
    """
    for known in inputs:
        path = scene.image if known.role == "image" else scene.dsm
        if isinstance(path, Url):
            same = limits is None or RemoteFile(path, limits.access).digest == known.digest
        else:
            path = path.parent / known.name
            same = known.digest.matches(path)
        if not same:
            raise InputChangedError(
                f"{path}: has changed since the run began; put the old file back, or begin anew "
                "with --restart"
            )
    names = {(known.role, known.name) for known in inputs}
    for role, path in files:
        if (role, _name(scene, role, path)) not in names:
            raise InputChangedError(
                f"{path}: did not exist when the run began; remove it, or begin anew with --restart"
            )


def _name(scene: Scene, role: str, path: RasterPath) -> str:
    whole = scene.image if role == "image" else scene.dsm
    if isinstance(path, Url) or isinstance(whole, Url):
        return path.name
    return os.path.relpath(path, whole.parent)
