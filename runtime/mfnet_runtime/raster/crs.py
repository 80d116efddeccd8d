"""Coordinate reference systems: compare, describe, and transform points between them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from rasterio._err import CPLE_BaseError  # GDAL's errors; not all are wrapped
from rasterio.crs import CRS
from rasterio.errors import CRSError, RasterioError
from rasterio.warp import transform

Array = npt.NDArray[np.float64]

_VERTICAL = {"geoidgrids", "geoid_crs", "vunits", "vto_meter"}  # of PROJ's parameters


class ProjectionError(ValueError):
    """Points cannot be transformed to another CRS; the caller adds the files."""


@dataclass(frozen=True)
class HeightSystem:
    """What a CRS states about heights."""

    datum: str | None  # for example "EGM96 geoid"; None: not stated
    unit: str | None  # for example "metre"


def same_horizontally(one: CRS | None, other: CRS | None) -> bool:
    """Compare two CRSs without their vertical parts; an unknown CRS is equal to any.

    A DSM often adds a height datum to the CRS of its image.
    """
    return not one or not other or _horizontal(one) == _horizontal(other)


def _horizontal(crs: CRS) -> dict[str, Any]:
    return {key: value for key, value in crs.to_dict().items() if key not in _VERTICAL}


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
    parts = _parts(crs)
    if not parts:
        return None
    base = parts[0].get("base_crs", parts[0])
    datum = base.get("datum") or base.get("datum_ensemble") or {}
    return datum.get("name")


def height_system(crs: CRS | None) -> HeightSystem:
    """Return the vertical part of a compound CRS."""
    parts = _parts(crs)
    if len(parts) < 2:
        return HeightSystem(None, None)
    unit = parts[1].get("coordinate_system", {}).get("axis", [{}])[0].get("unit")
    name = unit.get("name") if isinstance(unit, dict) else unit
    datum = parts[1].get("datum") or parts[1].get("datum_ensemble") or {}
    return HeightSystem(datum.get("name"), name)


def ellipsoid(crs: CRS) -> tuple[float, float] | None:
    """Return the semi-major axis (metres) and flattening of the ellipsoid of positions."""
    parts = _parts(crs)
    base = parts[0].get("base_crs", parts[0]) if parts else {}
    figure = (base.get("datum") or base.get("datum_ensemble") or {}).get("ellipsoid", {})
    axis = figure.get("semi_major_axis", figure.get("radius"))
    minor, inverse = figure.get("semi_minor_axis"), figure.get("inverse_flattening")
    if not all(isinstance(value, (int, float, type(None))) for value in (axis, minor, inverse)):
        return None  # in another unit than metres
    if not axis:
        return None
    if minor is not None:
        return float(axis), 1 - minor / axis
    return float(axis), 1 / inverse if inverse else 0.0


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
