"""Whether open rasters hold numbers and lie on one grid. Opens and reads nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from rasterio.enums import ColorInterp

from mfnet_runtime.errors import SceneError
from mfnet_runtime.raster.crs import horizontal
from mfnet_runtime.scene.reprojection import Grid

GRID_TOLERANCE = 0.05  # pixels by which two grids' corners may differ


def require_single_band(path: Path, dataset: Any, role: str) -> None:
    """Raise SceneError unless the raster has one band."""
    if dataset.count != 1:
        raise SceneError(
            f"{path}: {role} has {dataset.count} bands, expected 1; "
            "choose one with --dsm-band, or extract it with gdal_translate -b"
        )
    require_plain_numbers(path, dataset, 1)


def require_plain_numbers(path: Path, dataset: Any, band: int) -> None:
    """Raise SceneError if a band holds palette indices or complex numbers."""
    if dataset.colorinterp[band - 1] is ColorInterp.palette:
        raise SceneError(
            f"{path}: band {band} holds palette indices, not values; "
            "expand it with gdal_translate -expand rgb"
        )
    if np.issubdtype(np.dtype(dataset.dtypes[band - 1]), np.complexfloating):
        raise SceneError(f"{path}: band {band} holds complex numbers; convert it to real ones")


def grid_of(dataset: Any) -> Grid:
    """Size and place of an open raster."""
    return Grid(dataset.height, dataset.width, dataset.transform, dataset.crs)


def require_same_grid(
    path: Path,
    dataset: Any,
    other_path: Path,
    other: Any,
    place: bool = True,
    remedy: str = "warp one onto the other's grid with gdalwarp",
) -> None:
    """Refuse two open rasters that do not have the same size, place and CRS.

    Args:
        path: Of the one, for the message.
        dataset: The one.
        other_path: Of the other.
        other: The other.
        place: Compare place and CRS too, where both rasters state them.
        remedy: What to do.

    Raises:
        SceneError: names both values and the remedy.
    """
    fault = mismatch(path, dataset, other, place)
    if fault is not None:
        raise SceneError(f"{other_path}: {fault}; {remedy}")


def mismatch(path: Path, dataset: Any, other: Any, place: bool = True) -> str | None:
    """How another raster differs from one in size, place or CRS; None where it does not.

    Args:
        path: Of the one, for the text.
        dataset: The one.
        other: The other.
        place: Compare place and CRS too, where both rasters state them.

    Raises:
        SceneError: the one has a transform without an inverse.
    """
    size, other_size = (dataset.height, dataset.width), (other.height, other.width)
    if size != other_size:
        return f"is {other_size[0]} x {other_size[1]} px, {path.name} is {size[0]} x {size[1]} px"
    if not place:
        return None
    if not dataset.transform.is_identity and not other.transform.is_identity:
        corners = np.array(
            [(x, y, 1) for x in (0, dataset.width) for y in (0, dataset.height)], float
        ).T  # (3, corner), homogeneous pixel coordinates
        here, there = (np.array(grid.transform).reshape(3, 3) for grid in (dataset, other))
        try:
            shift = np.abs(np.linalg.solve(here, there @ corners) - corners).max()
        except np.linalg.LinAlgError as fault:
            raise SceneError(
                f"{path}: its geotransform is singular; set it anew with gdal_edit -a_ullr"
            ) from fault
        if shift > GRID_TOLERANCE:
            return f"lies up to {shift:.2f} px off the grid of {path.name}"
    if dataset.crs and other.crs and horizontal(dataset.crs) != horizontal(other.crs):
        return (
            f"CRS is {other.crs.to_string()[:60]}, "
            f"that of {path.name} is {dataset.crs.to_string()[:60]}"
        )
    return None
