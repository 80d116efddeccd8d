"""STAC items that describe maps, and the parts of them that items of models have, too."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mfnet_runtime.labels import IGNORE, ClassTable
from mfnet_runtime.raster.crs import ProjectionError, reproject_points
from mfnet_runtime.raster.vectors import DECIMALS, WGS84

EXTENSIONS = [
    "https://stac-extensions.github.io/classification/v2.0.0/schema.json",
    "https://stac-extensions.github.io/projection/v2.0.0/schema.json",
]
# The time of the image is unknown, and STAC demands one.
ALWAYS = {
    "datetime": None,
    "start_datetime": "1900-01-01T00:00:00Z",
    "end_datetime": "9999-12-31T23:59:59Z",
}
COG = "image/tiff; application=geotiff; profile=cloud-optimized"
EDGE = 8  # corners of the footprint on each edge of a raster, which may be curved in degrees


def item_of_map(
    name: str,
    classes: ClassTable,
    place: Mapping[str, Any],
    shape: tuple[int, int],
    assets: Mapping[str, Path],
) -> str:
    """Return the item of a class map, as JSON; it has no geometry if that is unknown.

    Args:
        name: Of the scene.
        classes: Of the map.
        place: `crs` and `transform`, or `gcps`, of the image.
        shape: Rows and columns.
        assets: Files beside the item: `map`, and those that there are of `confidence`,
            `probabilities` and `vectors`.
    """
    crs, transform = place.get("crs"), place.get("transform")
    properties: dict[str, Any] = {**ALWAYS, "proj:code": None, "proj:shape": list(shape)}
    geometry: dict[str, Any] = {"geometry": None}
    if crs and transform:
        if authority := crs.to_authority():
            properties["proj:code"] = ":".join(authority)
        else:
            properties["proj:wkt2"] = crs.to_wkt(version="WKT2_2019")
        properties["proj:transform"] = list(transform)[:6]
        geometry = _geometry(crs, transform, shape)
    found: dict[str, Any] = {}
    for kind, path in assets.items():
        found[kind] = {"href": f"./{path.name}", "roles": ["data"]}
        if path.suffix == ".tif":
            found[kind] |= {"type": COG, "data_type": "uint8", "nodata": IGNORE}
    found["map"]["classification:classes"] = classification(classes)
    if "probabilities" in found:
        found["probabilities"]["bands"] = [{"name": name} for name in classes.names]
    item = {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": EXTENSIONS,
        "id": name,
        **geometry,
        "properties": properties,
        "assets": found,
        "links": [],
    }
    return json.dumps(item, indent=2, ensure_ascii=False) + "\n"


def _geometry(crs: Any, transform: Any, shape: tuple[int, int]) -> dict[str, Any]:
    """Return footprint and bounding box in degrees; none across the antimeridian."""
    steps = np.arange(EDGE) / EDGE
    start, end = np.zeros(EDGE), np.ones(EDGE)
    rows = shape[0] * np.concatenate([steps, end, 1 - steps, start, [0]])
    columns = shape[1] * np.concatenate([start, steps, end, 1 - steps, [0]])
    try:
        ring = np.stack(reproject_points(crs, WGS84, *(transform * (columns, rows))), 1)
    except ProjectionError:
        return {"geometry": None}
    if np.abs(ring[:, 0]).max() > 180 or np.ptp(ring[:, 0]) > 180:
        return {"geometry": None}
    ring = ring.round(DECIMALS)
    box = [*ring.min(axis=0).tolist(), *ring.max(axis=0).tolist()]
    return {"geometry": {"type": "Polygon", "coordinates": [ring.tolist()]}, "bbox": box}


def classification(classes: ClassTable) -> list[dict[str, Any]]:
    """Return a class table as `classification:classes`, whose names have letters and digits."""
    pairs = zip(classes.names, classes.colours, strict=True)
    return [
        {
            "value": index,
            "name": plain(name).replace(".", "-"),
            "description": name,
            "color_hint": "{:02X}{:02X}{:02X}".format(*colour),
        }
        for index, (name, colour) in enumerate(pairs)
    ]


def plain(name: str) -> str:
    """Return a name of letters, digits, hyphens, underscores and dots."""
    return re.sub(r"[^0-9A-Za-z_.-]+", "-", name).strip("-_.") or "x"
