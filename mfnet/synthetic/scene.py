"""A synthetic town scene: image, height model and label from a seed, and its files."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio import Affine
from rasterio.enums import ColorInterp

from mfnet.synthetic.light import Sun, expose
from mfnet.synthetic.town import paint_town
from mfnet_runtime.errors import ResourceError, UsageError
from mfnet_runtime.labels import IGNORE, ClassTable

PIXEL = 0.25  # metres
NODATA = -9999.0  # of the DSM
CRS = "EPSG:32632"
ORIGIN = (691_000.0, 5_335_000.0)  # easting and northing of the first scene's corner, metres
MIN_SIZE = 32  # pixels

TOWN = ClassTable(
    ("ground", "building", "tree", "low vegetation", "car", "water"),
    (
        (214, 208, 196),
        (200, 80, 62),
        (43, 110, 66),
        (158, 199, 105),
        (246, 190, 46),
        (66, 135, 190),
    ),
)


@dataclass(frozen=True)
class TownScene:
    """One scene on one grid of 0.25 m pixels."""

    image: npt.NDArray[np.uint8]  # (3, row, column) red, green, blue
    dsm: npt.NDArray[np.float32]  # (row, column) metres, NODATA where unknown
    label: npt.NDArray[np.uint8]  # (row, column) index into TOWN, IGNORE where the DSM is unknown


def draw_town(size: tuple[int, int], seed: int, *, nodata: bool = False) -> TownScene:
    """A town of streets, houses, trees, cars, lawns and water; equal seeds give equal scenes.

    Args:
        size: Rows and columns, at least 32 each.
        seed: Of `numpy.random.default_rng`.
        nodata: Leave a corner and a few spots of the DSM unknown.

    Raises:
        UsageError: `size` below 32 pixels.
    """
    if min(size) < MIN_SIZE:
        raise UsageError(f"scene size is {size[0]} x {size[1]} px; expected at least {MIN_SIZE}")
    rng = np.random.default_rng(seed)
    canvas = paint_town(size, PIXEL, rng)
    sun = Sun(azimuth=float(rng.uniform(195, 225)), elevation=float(rng.uniform(42, 50)))
    image = expose(canvas.albedo, canvas.surface, PIXEL, sun, rng)
    dsm = canvas.surface + np.float32(0.03) * rng.standard_normal(size, np.float32)
    label = canvas.label
    if nodata:
        unknown = _unknown(size, rng)
        dsm[unknown] = NODATA
        label[unknown] = IGNORE
    return TownScene(image, dsm.astype(np.float32), label)


def write_town(
    folder: Path,
    scenes: Mapping[str, int],
    size: tuple[int, int] = (768, 768),
    *,
    nodata: Collection[str] = (),
) -> None:
    """Write scenes as `image/ dsm/ label/` GeoTIFFs with equal stems, and `classes.json`.

    Args:
        folder: Made if it is not there.
        scenes: Seed of each scene, by the stem of its files.
        size: Rows and columns of every scene, pixels.
        nodata: Names of the scenes whose DSM has gaps.

    Raises:
        ResourceError: the folder cannot be written.
    """
    try:
        for part in ("image", "dsm", "label"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        for index, (name, seed) in enumerate(scenes.items()):
            scene = draw_town(size, seed, nodata=name in nodata)
            _write_scene(folder, name, scene, index)
        text = json.dumps(TOWN.to_json(), indent=1)
        (folder / "classes.json").write_text(text + "\n", encoding="utf-8")
    except (OSError, rasterio.errors.RasterioIOError) as fault:
        raise ResourceError(f"{folder}: cannot write the scenes: {fault}") from fault


def _unknown(size: tuple[int, int], rng: np.random.Generator) -> npt.NDArray[np.bool_]:
    """A cut corner and three round gaps, a few percent of the scene."""
    rows, columns = np.ogrid[: size[0], : size[1]]
    side = min(size)
    gone = (rows + columns) < side * 0.22
    for _ in range(3):
        row, column = rng.uniform(0.15, 0.85, 2) * size
        radius = side * float(rng.uniform(0.008, 0.02))
        gone = gone | ((rows - row) ** 2 + (columns - column) ** 2 < radius**2)
    return np.asarray(gone, np.bool_)


def _write_scene(folder: Path, name: str, scene: TownScene, index: int) -> None:
    rows, columns = scene.label.shape
    grid: dict[str, Any] = {
        "driver": "GTiff",
        "width": columns,
        "height": rows,
        "crs": CRS,
        # Scenes stand side by side, 100 m apart.
        "transform": Affine(
            PIXEL, 0, ORIGIN[0] + index * (columns * PIXEL + 100), 0, -PIXEL, ORIGIN[1]
        ),
        "tiled": True,
        "blockxsize": 256,
        "blockysize": 256,
        "compress": "deflate",
    }
    file = f"{name}.tif"
    with rasterio.open(
        folder / "image" / file, "w", count=3, dtype="uint8", interleave="pixel",
        photometric="rgb", **grid,
    ) as image:  # fmt: skip
        image.write(scene.image)
        image.colorinterp = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)
    with rasterio.open(
        folder / "dsm" / file, "w", count=1, dtype="float32", nodata=NODATA, predictor=3, **grid
    ) as dsm:
        dsm.write(scene.dsm, 1)
        dsm.units = ("metre",)
    with rasterio.open(
        folder / "label" / file, "w", count=1, dtype="uint8", nodata=IGNORE, **grid
    ) as label:
        label.write(scene.label, 1)
        label.write_colormap(1, TOWN.colormap())
