"""Coordinate reference systems: compare, describe, and transform points between them."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from rasterio._err import CPLE_BaseError  # GDAL's errors; not all are wrapped
from rasterio.crs import CRS
from rasterio.errors import CRSError, RasterioError
from rasterio.warp import transform

Array = npt.NDArray[np.float64]

UNSTATED = re.compile(r"(D_)?(unknown|unnamed|not[ _]specified)", re.IGNORECASE)  # datums
ETRS89 = "European Terrestrial Reference System 1989"


class ProjectionError(ValueError):
    """Points cannot be transformed to another CRS; the caller adds the files."""


@dataclass(frozen=True)
class HeightSystem:
    """Unit and datum of heights, as a CRS states them."""

    datum: str | None  # for example "EGM96 geoid"; None: not stated
    unit: str | None  # for example "metre"


def same_horizontally(one: CRS | None, other: CRS | None) -> bool:
    """Compare two CRSs as PROJ does, however they are written; an unknown CRS is equal to any.

    Vertical parts, axis order and `+towgs84` are ignored: rasters have x first, and a DSM often
    adds a height datum to the CRS of its image. A datum that is not stated, as in PROJ strings with
    `+ellps`, is equal to any on that ellipsoid.
    """
    return not one or not other or one == other or _same(_horizontal(one), _horizontal(other))


def differing_datums(one: CRS | None, other: CRS | None) -> tuple[str, str] | None:
    """Return the names of the datums that positions refer to; None if equal or not stated."""
    first, second = datum_name(one), datum_name(other)
    if first is None or second is None or _same(_geographic(one), _geographic(other)):
        return None
    return first, second


def short_name(crs: CRS | None) -> str:
    """Return `EPSG:32632`, or the CRS's own name, or `unknown`."""
    if not crs:
        return "unknown"
    code = crs.to_string()
    if len(code) <= 30:
        return str(code)
    return str(_described(crs).get("name") or code)[:60]


def datum_name(crs: CRS | None) -> str | None:
    """Return the CRS's name of the datum that positions refer to."""
    return _datum(_geographic(crs)).get("name")


def height_system(crs: CRS | None) -> HeightSystem:
    """Return the vertical part of a compound CRS."""
    parts = _parts(crs)
    if len(parts) < 2:
        return HeightSystem(None, None)
    unit = parts[1].get("coordinate_system", {}).get("axis", [{}])[0].get("unit")
    name = unit.get("name") if isinstance(unit, dict) else unit
    return HeightSystem(_datum(parts[1]).get("name"), name)


def ellipsoid(crs: CRS) -> tuple[float, float] | None:
    """Return the semi-major axis (metres) and flattening of the ellipsoid of positions."""
    figure = _datum(_geographic(crs)).get("ellipsoid", {})
    axis = figure.get("semi_major_axis", figure.get("radius"))
    minor, inverse = figure.get("semi_minor_axis"), figure.get("inverse_flattening")
    if not all(isinstance(value, (int, float, type(None))) for value in (axis, minor, inverse)):
        return None  # in another unit than metres
    if not axis:
        return None
    if minor is not None:
        return float(axis), 1 - minor / axis
    return float(axis), 1 / inverse if inverse else 0.0


def geographic_base(crs: CRS) -> CRS:
    """Return the geographic CRS that a CRS projects, or itself.

    Raises:
        ProjectionError: It is neither projected nor geographic.
    """
    try:
        base = crs if crs.is_geographic else CRS.from_string(json.dumps(_geographic(crs)))
    except CRSError as fault:
        raise ProjectionError(str(fault)) from fault
    if not base.is_geographic:
        raise ProjectionError(f"{short_name(crs)} has no latitudes")
    return base


def reproject_points(source: CRS, target: CRS, x: Array, y: Array) -> tuple[Array, Array]:
    """Transform points of any shape; x is easting or longitude whatever the CRS's axis order.

    Raises:
        ProjectionError: A point lies outside the domain of the target CRS.
    """
    try:
        there = np.array(transform(source, target, x.ravel(), y.ravel()))
    except (CPLE_BaseError, RasterioError) as fault:
        raise ProjectionError(" ".join(str(fault).split())[:100]) from fault
    if not np.isfinite(there).all():
        raise ProjectionError("point outside of the projection's domain")
    return there[0].reshape(x.shape), there[1].reshape(y.shape)


def _same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Compare two CRSs given as PROJJSON."""
    for described, known in ((one, other), (other, one)):
        base, name = _base(described), _datum(_base(known)).get("name", "")
        if UNSTATED.match(_datum(base).get("name", "")):
            base["datum"] = {**_datum(base), "name": name.removesuffix(" ensemble")}
    try:
        return bool(_normalised(one) == _normalised(other))
    except CRSError:
        return False


def _normalised(described: dict[str, Any]) -> CRS:
    """Sort the axes, and take national realisations of ETRS89 for ETRS89.

    They agree within centimetres. PROJ names them `ETRS89-NOR [EUREF89]`, for example.
    """
    described.pop("id", None)  # rasterio would compare nothing else
    axes = described.get("coordinate_system", {}).get("axis", [])
    axes.sort(key=lambda axis: (axis["direction"], axis["name"]))
    base = _base(described)
    if _datum(base).get("name", "").startswith("ETRS89-"):
        base["datum"] = {**_datum(base), "name": ETRS89}
        base.pop("id", None)
    return CRS.from_string(json.dumps(described))


def _horizontal(crs: CRS | None) -> dict[str, Any]:
    """Return the horizontal part as PROJJSON; empty if unknown."""
    return next(iter(_parts(crs)), {})


def _geographic(crs: CRS | None) -> dict[str, Any]:
    """Return the base of the horizontal part as PROJJSON."""
    return _base(_horizontal(crs))


def _base(described: dict[str, Any]) -> dict[str, Any]:
    """Return the CRS that a CRS projects, or else itself."""
    base: dict[str, Any] = described.get("base_crs", described)
    return base


def _datum(described: dict[str, Any]) -> dict[str, Any]:
    return described.get("datum") or described.get("datum_ensemble") or {}


def _parts(crs: CRS | None) -> list[dict[str, Any]]:
    """Return the horizontal CRS, and the vertical one if there is one, as PROJJSON."""
    described = _described(crs)
    if not described:
        return []
    parts: list[dict[str, Any]] = described.get("components", [described])
    return [part.get("source_crs", part) for part in parts]  # without +towgs84 around it


def _described(crs: CRS | None) -> dict[str, Any]:
    if not crs:
        return {}
    try:
        return dict(crs.to_dict(projjson=True))
    except CRSError:
        return {}
