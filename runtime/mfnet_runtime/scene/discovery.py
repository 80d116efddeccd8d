"""Which files make a scene. Paths only: opens nothing."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mfnet_runtime.errors import SceneError, UsageError
from mfnet_runtime.scene.pairing import (
    SUFFIXES,
    Pair,
    pairs_from_folder,
    pairs_from_folders,
    pairs_from_table,
    rasters_in,
)


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
    dsm_band: int | None = None,
) -> list[Scene]:
    """Scenes of a folder, of a table of pairs, or of one image.

    A folder holds `image/ dsm/ [label/]` with equal stems, or pairs by ISPRS names or as
    `NAME.tif, NAME_dsm.tif`, or images whose heights are in the folder `dsm`. A table is a CSV file
    with the columns image, dsm and, if need be, name.

    A scene whose DSM or label file is missing is still listed, with the path where it was looked
    for: reading it fails with that path, and the other scenes still run.

    Args:
        source: The folder, the table, or the image.
        dsm: The height model of the one image, or the folder of those of a folder of images.
        labelled: Also list `label/`; only for folders with `image/` and `dsm/`.
        only: Names of the scenes to take; empty takes all.
        dsm_band: Band that holds heights, from 1: of the DSMs, or where there are none of the
            images themselves; None for DSMs of one band.

    Raises:
        UsageError: `source` is missing, empty or of another shape; two files for one part of a
            scene; a name in `only` is no scene's.
    """
    if source.is_file():
        scenes = _scenes_from_file(source, dsm, dsm_band)
    elif not source.is_dir():
        raise UsageError(f"{source}: no such file or folder, or neither of both")
    elif labelled or (source / "image").is_dir():
        scenes = _scenes_from_stems(source, dsm, labelled, dsm_band)
    else:
        scenes = _scenes_from_names(source, dsm, dsm_band)
    names = [scene.name for scene in scenes]
    unknown = [name for name in only if name not in names]
    if unknown:
        raise UsageError(
            f"{source}: no scene named {unknown[0]!r}; there are {', '.join(names[:10])}"
        )
    return [scene for scene in scenes if not only or scene.name in only]


def _scenes_from_file(source: Path, dsm: Path | None, band: int | None) -> list[Scene]:
    if source.suffix.lower() == ".csv":
        if dsm is not None:
            raise UsageError(f"{source}: --dsm goes with images; a table names its own DSMs")
        return [_scene_from_pair(pair, band) for pair in pairs_from_table(source)]
    if dsm is None and band is None:
        raise UsageError(
            f"{source}: one image needs its height model; add --dsm FILE, or --dsm-band N if it "
            "is a band of the image"
        )
    return [Scene(source.stem, source, dsm or source, dsm_band=band)]


def _scenes_from_names(source: Path, dsm: Path | None, band: int | None) -> list[Scene]:
    if dsm is not None:
        if not dsm.is_dir():
            raise UsageError(f"{dsm}: is no folder; the images are in one, {source}")
        return [_scene_from_pair(pair, band) for pair in pairs_from_folders(source, dsm)]
    if band is not None:
        images = _images_by_stem(source)
        return [Scene(stem, image, image, dsm_band=band) for stem, image in images.items()]
    return [_scene_from_pair(pair, band) for pair in pairs_from_folder(source)]


def _scenes_from_stems(
    source: Path, dsm: Path | None, labelled: bool, band: int | None
) -> list[Scene]:
    if dsm is not None:
        raise UsageError(f"{source}: --dsm goes with images; this folder has its own dsm/")
    own = band is not None and not (source / "dsm").is_dir()  # heights in the images
    folders = ("image", *(() if own else ("dsm",)), *(("label",) if labelled else ()))
    for folder in folders:
        if not (source / folder).is_dir():
            raise UsageError(
                f"{source}: no folder {folder}/ in it; expected {'/ '.join(folders)}/ holding "
                "files with equal stems"
            )
    images = _images_by_stem(source / "image")
    heights = images if own else _by_stem(source / "dsm")
    labels = _by_stem(source / "label") if labelled else {}
    return [
        Scene(
            stem,
            image,
            heights.get(stem, source / "dsm" / f"{stem}.tif"),
            labels.get(stem, source / "label" / f"{stem}.tif") if labelled else None,
            band,
        )
        for stem, image in images.items()
    ]


def _scene_from_pair(pair: Pair, band: int | None) -> Scene:
    if pair.dsm is not None:
        return Scene(pair.name, pair.image, pair.dsm, dsm_band=band)
    if band is None:
        raise UsageError(
            f"{pair.image}: the table names no DSM for it; add one, or --dsm-band N if the "
            "heights are a band of the image"
        )
    return Scene(pair.name, pair.image, pair.image, dsm_band=band)


def require_files(scene: Scene) -> None:
    """Name the missing part of a scene before anything of it is read.

    Raises:
        SceneError: a file is not there.
    """
    parts = (("image", scene.image), ("dsm", scene.dsm), ("label", scene.label))
    for role, path in parts:
        if path is not None and not os.path.lexists(path):
            raise SceneError(
                f"{path}: scene '{scene.name}' has no {role} there; put it there, or "
                "leave the scene out"
            )


def _images_by_stem(folder: Path) -> dict[str, Path]:
    images = _by_stem(folder)
    if not images:
        raise UsageError(f"{folder}: no rasters ({', '.join(SUFFIXES)}) in it")
    return images


def _by_stem(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in rasters_in(folder):
        if path.stem in found:
            raise UsageError(f"{path}: {found[path.stem].name} has the same stem; keep one of them")
        found[path.stem] = path
    return found
