"""Town scenes from a seed: image, height model, label, and their files."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio.transform import from_origin

from mfnet.synthetic.canvas import Canvas
from mfnet.synthetic.light import expose
from mfnet.synthetic.streets import paint_town
from mfnet_runtime.errors import ResourceError, UsageError
from mfnet_runtime.labels import IGNORE, ClassTable

PIXEL = 0.25  # metres
NODATA = -9999.0  # in the DSM
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
    """A scene with pixels of 0.25 m."""

    image: npt.NDArray[np.uint8]  # (3, row, column) red, green, blue
    dsm: npt.NDArray[np.float32]  # (row, column) metres, NODATA where unknown
    label: npt.NDArray[np.uint8]  # (row, column) index into TOWN, IGNORE where the DSM is unknown


def draw_town(size: tuple[int, int], seed: int, *, nodata: bool = False) -> TownScene:
    """Draw a town of streets, houses, trees, cars, lawns and a river.

    Args:
        size: Rows and columns, at least 32 each.
        seed: Equal seeds give equal scenes.
        nodata: Leave a corner and a few spots of the DSM unknown.

    Raises:
        UsageError: `size` is below 32 pixels.
    """
    rows, columns = size
    if min(size) < MIN_SIZE:
        raise UsageError(f"scene size is {columns} x {rows} px; expected at least {MIN_SIZE}")
    rng = np.random.default_rng(seed)
    canvas = Canvas(size, PIXEL, rng)
    paint_town(canvas)
    sun = rng.uniform(195, 225), rng.uniform(42, 50)
    image = expose(canvas.albedo, canvas.surface, PIXEL, sun, rng)
    dsm = canvas.surface + np.float32(0.03) * rng.standard_normal(size, np.float32)
    if nodata:
        y, x = np.ogrid[:rows, :columns]
        unknown = y + x < 0.22 * min(size)
        for row, column, radius in rng.uniform((0.15, 0.15, 0.008), (0.85, 0.85, 0.02), (3, 3)):
            distance = np.hypot(y - row * rows, x - column * columns)
            unknown |= distance < radius * min(size)
        dsm[unknown] = NODATA
        canvas.label[unknown] = IGNORE
    return TownScene(image, dsm, canvas.label)


def write_town(
    folder: Path,
    scenes: Mapping[str, int],
    size: tuple[int, int] = (768, 768),
    *,
    nodata: Collection[str] = (),
) -> None:
    """Write scenes as `image/ dsm/ label/` GeoTIFFs with equal stems, and `classes.json`.

    Args:
        folder: Created if missing.
        scenes: Seed of each scene, by the stem of its files.
        size: Rows and columns of every scene.
        nodata: Names of the scenes whose DSM has gaps.

    Raises:
        ResourceError: The folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for index, (name, seed) in enumerate(scenes.items()):
            left = 691_000 + index * (size[1] * PIXEL + 100)  # side by side, 100 m apart
            _write_scene(folder, name, draw_town(size, seed, nodata=name in nodata), left)
        text = json.dumps(TOWN.to_json(), indent=1)
        (folder / "classes.json").write_text(text + "\n", encoding="utf-8")
    except (OSError, rasterio.errors.RasterioIOError) as fault:
        raise ResourceError(f"{folder}: cannot write the scenes: {fault}") from fault


def _write_scene(folder: Path, name: str, scene: TownScene, left: float) -> None:
    rows, columns = scene.label.shape
    grid = {"width": columns, "height": rows, "crs": "EPSG:32632", "compress": "deflate"}
    grid["transform"] = from_origin(left, 5_335_000, PIXEL, PIXEL)
    layers: dict[str, tuple[npt.NDArray[Any], dict[str, Any]]] = {
        "image": (scene.image, {"photometric": "rgb", "interleave": "pixel"}),
        "dsm": (scene.dsm[None], {"nodata": NODATA, "predictor": 3}),
        "label": (scene.label[None], {"nodata": IGNORE}),
    }
    for kind, (bands, profile) in layers.items():
        path = folder / kind / f"{name}.tif"
        path.parent.mkdir(exist_ok=True)
        with rasterio.open(
            path, "w", driver="GTiff", count=len(bands), dtype=bands.dtype, tiled=True,
            blockxsize=256, blockysize=256, **grid, **profile,
        ) as raster:  # fmt: skip
            raster.write(bands)
            if kind == "dsm":
                raster.units = ("metre",)
            if kind == "label":
                raster.write_colormap(1, TOWN.colormap())
