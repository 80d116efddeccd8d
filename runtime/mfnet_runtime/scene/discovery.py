"""Find the files that make a scene. Opens no raster."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mfnet_runtime.errors import SceneError, UsageError
from mfnet_runtime.network.stac import ITEM_SUFFIXES, Pair, pairs_from_stac
from mfnet_runtime.network.url import RasterPath, Url
from mfnet_runtime.scene.layouts import Layout
from mfnet_runtime.scene.pairing import (
    driver_hint,
    images_by_stem,
    pairs_from_folder,
    pairs_from_folders,
    pairs_from_table,
    rasters_by_stem,
    require_name,
    suffixes_of,
)


@dataclass(frozen=True)
class Scene:
    """The files of an image, its DSM, and its label if there is one."""

    name: str  # of the outputs
    image: RasterPath
    dsm: RasterPath
    label: Path | None = None
    dsm_band: int | None = None  # band of `dsm` with the heights, from 1; None: its only one


def scenes_from(
    source: RasterPath,
    dsm: RasterPath | None = None,
    *,
    labelled: bool = False,
    only: Sequence[str] = (),
    dsm_band: int | None = None,
    drivers: Sequence[str] = (),
    layout: Layout | None = None,
    assets: Sequence[str] = (),
    hosts: Sequence[str] = (),
) -> list[Scene]:
    """List the scenes of a folder, of a CSV table of pairs, of a STAC item, or of one image.

    A folder holds `image/ dsm/ [label/]` with equal stems, or pairs by ISPRS names or as
    `NAME.tif, NAME_dsm.tif`, or images whose DSMs are in the folder `dsm`. A table has the columns
    image, dsm and optionally name.

    A scene whose DSM or label is missing is still listed, with the path where it was expected:
    reading it fails with that path, and the other scenes still run.

    Args:
        source: The folder, table, item or image; item and image may be on the network.
        dsm: The DSM of the one image, or the folder of the DSMs of a folder of images.
        labelled: Also list `label/`; only for folders with `image/` and `dsm/`.
        only: Names of the scenes to take; empty takes all.
        dsm_band: Band with the heights, from 1: of the DSMs, or of the images themselves if there
            are no DSMs; None for DSMs of one band.
        drivers: GDAL's, whose files in folders are rasters too, in addition to GeoTIFF, PNG and
            JPEG. A PNG or JPEG beside another raster of the same stem is its preview.
        layout: Of the published dataset in the folder `source`; its labels are ignored.
        assets: Keys of the image and the DSM in a STAC item; none chooses by key or role.
        hosts: From which an item may be read; see `Access`.

    Raises:
        RemoteError: An item cannot be read over the network.
        UsageError: `source` is missing, empty or of another layout; two files match one part of a
            scene; `only` holds a name that no scene has.
    """
    suffixes = suffixes_of(drivers)
    if isinstance(source, Url) or source.is_file():
        if source.suffix.lower() in ITEM_SUFFIXES:
            found = pairs_from_stac(source, assets, dsm is None and dsm_band is None, hosts)
            scenes = _scenes_from_items(source, found, dsm, dsm_band)
        else:
            scenes = _scenes_from_file(source, dsm, dsm_band)
    elif not source.is_dir():
        raise UsageError(f"{source}: is not a file or folder")
    elif layout is not None:
        if dsm is not None or dsm_band is not None:
            raise UsageError(f"{source}: --dsm and --dsm-band do not go with a published dataset")
        scenes = [
            Scene(image.stem, image, heights) for image, heights in layout.pairs(source).items()
        ]
    elif labelled or (source / "image").is_dir():
        scenes = _scenes_from_stems(source, dsm, labelled, dsm_band, suffixes)
    else:
        if dsm is not None:
            pairs = pairs_from_folders(source, dsm, suffixes)
        elif dsm_band is not None:
            pairs = {image: image for image in images_by_stem(source, suffixes).values()}
        else:
            pairs = pairs_from_folder(source, suffixes)
        scenes = [
            Scene(image.stem, image, heights, dsm_band=dsm_band) for image, heights in pairs.items()
        ]
    names = [scene.name for scene in scenes]
    unknown = [name for name in only if name not in names]
    if unknown:
        raise UsageError(
            f"{source}: no scene named {unknown[0]!r}; there are {', '.join(names[:10])}"
        )
    return [scene for scene in scenes if not only or scene.name in only]


def require_files(scene: Scene) -> None:
    """Check that all files of a scene exist.

    Raises:
        SceneError: A file is missing.
    """
    parts = (("image", scene.image), ("dsm", scene.dsm), ("label", scene.label))
    for role, path in parts:
        if isinstance(path, Path) and not os.path.lexists(path):
            raise SceneError(
                f"{path}: scene '{scene.name}' has no {role} there; put it there, or "
                f"leave the scene out{driver_hint(path.parent, path.stem)}"
            )


def _scenes_from_file(source: RasterPath, dsm: RasterPath | None, band: int | None) -> list[Scene]:
    if isinstance(source, Url) or source.suffix.lower() != ".csv":
        if dsm is None and band is None:
            raise UsageError(
                f"{source}: one image needs its DSM; add --dsm FILE, or --dsm-band N if the "
                "heights are a band of the image"
            )
        return [Scene(source.stem, source, dsm or source, dsm_band=band)]
    if dsm is not None:
        raise UsageError(f"{source}: --dsm goes with images; a table names its own DSMs")
    scenes = []
    for name, image, heights in pairs_from_table(source):
        if heights is None and band is None:
            raise UsageError(
                f"{image}: the table names no DSM for it; add one, or --dsm-band N if the "
                "heights are a band of the image"
            )
        scenes.append(Scene(name, image, heights or image, dsm_band=band))
    return scenes


def _scenes_from_items(
    source: RasterPath, pairs: Sequence[Pair], dsm: RasterPath | None, band: int | None
) -> list[Scene]:
    if dsm is not None and len(pairs) > 1:
        raise UsageError(f"{source}: holds {len(pairs)} items, and --dsm is of one image")
    scenes: dict[str, Scene] = {}
    for name, image, heights in pairs:
        require_name(name, scenes, str(source), "give items different ids")
        scenes[name] = Scene(name, image, dsm or heights or image, dsm_band=band)
    if not scenes:
        raise UsageError(f"{source}: holds no items")
    return list(scenes.values())


def _scenes_from_stems(
    source: Path, dsm: RasterPath | None, labelled: bool, band: int | None, suffixes: Sequence[str]
) -> list[Scene]:
    if dsm is not None:
        raise UsageError(f"{source}: --dsm goes with images; this folder has its own dsm/")
    own = band is not None and not (source / "dsm").is_dir()  # heights in the images
    folders = ("image", *(() if own else ("dsm",)), *(("label",) if labelled else ()))
    for folder in folders:
        if not (source / folder).is_dir():
            raise UsageError(
                f"{source}: has no folder {folder}/; expected {'/ '.join(folders)}/ holding "
                "files with equal stems"
            )
    images = images_by_stem(source / "image", suffixes)
    heights = images if own else rasters_by_stem(source / "dsm", suffixes)
    labels = rasters_by_stem(source / "label", suffixes) if labelled else {}
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
