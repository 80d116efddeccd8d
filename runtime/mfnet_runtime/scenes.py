"""Which files make a scene. Paths only: opens nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mfnet_runtime.errors import SceneError, UsageError

SUFFIXES = (".tif", ".tiff", ".png", ".jpg", ".jpeg")


@dataclass(frozen=True)
class Scene:
    """An image raster and its DSM on one grid, and the label where there is one."""

    name: str  # names the outputs
    image: Path
    dsm: Path
    label: Path | None = None
    dsm_band: int | None = None  # of `dsm`, from 1, that holds the heights; None: its only one


def scenes_from(
    source: Path,
    dsm: Path | None = None,
    *,
    labelled: bool = False,
    only: Sequence[str] = (),
) -> list[Scene]:
    """Scenes of a folder `image/ dsm/ [label/]` with equal stems, or of one image and `dsm`.

    A scene whose DSM or label file is missing is still listed, with the path where it was looked
    for: reading it fails with that path, and the other scenes still run.

    Args:
        source: A folder with `image/` and `dsm/` inside, or one image file.
        dsm: The height model of the one image.
        labelled: Also list `label/`; only for folders.
        only: Names of the scenes to take from a folder; empty takes all.

    Raises:
        UsageError: `source` is missing, empty or of another shape; two images of one stem; a
            name in `only` is no scene's.
    """
    if source.is_file():
        if dsm is None:
            raise UsageError(f"{source}: one image needs its height model; add --dsm FILE")
        return [Scene(source.stem, source, dsm)]
    if not source.is_dir():
        raise UsageError(f"{source}: no such file or folder")
    if dsm is not None:
        raise UsageError(f"{source}: --dsm goes with one image; a folder has its own dsm/")
    folders = ("image", "dsm", "label") if labelled else ("image", "dsm")
    for folder in folders:
        if not (source / folder).is_dir():
            raise UsageError(
                f"{source}: no folder {folder}/ in it; expected {'/ '.join(folders)}/ holding "
                "files with equal stems"
            )
    images = _by_stem(source / "image")
    if not images:
        raise UsageError(f"{source / 'image'}: no rasters ({', '.join(SUFFIXES)}) in it")
    unknown = [name for name in only if name not in images]
    if unknown:
        raise UsageError(
            f"{source}: no scene named {unknown[0]!r}; there are {', '.join(list(images)[:10])}"
        )
    heights = _by_stem(source / "dsm")
    labels = _by_stem(source / "label") if labelled else {}
    return [
        Scene(
            stem,
            image,
            heights.get(stem, source / "dsm" / f"{stem}.tif"),
            labels.get(stem, source / "label" / f"{stem}.tif") if labelled else None,
        )
        for stem, image in images.items()
        if not only or stem in only
    ]


def require_files(scene: Scene) -> None:
    """Name the missing part of a scene before anything of it is read.

    Raises:
        SceneError: a file is not there.
    """
    parts = (("image", scene.image), ("dsm", scene.dsm), ("label", scene.label))
    for role, path in parts:
        if path is not None and not path.is_file():
            raise SceneError(
                f"{path}: scene '{scene.name}' has no {role} there; expected a raster with the "
                f"stem '{scene.name}' beside {scene.image}"
            )


def _by_stem(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in _rasters(folder.iterdir()):
        if path.stem in found:
            raise UsageError(f"{path}: {found[path.stem].name} has the same stem; keep one of them")
        found[path.stem] = path
    return found


def _rasters(paths: Iterable[Path]) -> list[Path]:
    named = (path for path in paths if path.suffix.lower() in SUFFIXES)
    return sorted(path for path in named if not path.name.startswith("."))
