"""Simplified polygons that still share their borders, by Shapely's coverage simplification.

Simplified one by one, neighbours would overlap or part. As a coverage, each common border is
simplified once.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt

from mfnet_runtime.raster.polygons import Polygon, Ring

Corners = npt.NDArray[np.int64]  # (n, 2) column and row


def simplified(polygons: Sequence[Polygon], tolerance: float) -> list[Polygon]:
    """Leave out corners of polygons; none vanishes, and common borders stay common.

    Args:
        polygons: Of pixels, without overlaps.
        tolerance: Pixels; a corner is left out if its triangle with the corners beside it has
            less area than a square of this side (Visvalingam and Whyatt).

    Raises:
        ModuleNotFoundError: Shapely is not installed.
    """
    shapely = coverage_package()
    if not polygons:
        return []
    corners = np.concatenate([ring for polygon in polygons for ring in polygon.rings])
    nodes, coverage = np.unique(_keys(corners.astype(np.int64))), []
    for polygon in polygons:
        outer, *holes = (_with_nodes(ring.astype(np.int64), nodes) for ring in polygon.rings)
        coverage.append(shapely.Polygon(outer, holes))
    return [
        Polygon(polygon.index, _rings(simple))
        for polygon, simple in zip(
            polygons, shapely.coverage_simplify(coverage, tolerance), strict=True
        )
    ]


def coverage_package() -> Any:
    """Import Shapely, which the extra `vector` installs."""
    return import_module("shapely")


def _keys(corners: Corners) -> npt.NDArray[np.int64]:
    """Return one number for each column and row."""
    return corners[:, 1] << 32 | corners[:, 0]


def _with_nodes(ring: Corners, nodes: npt.NDArray[np.int64]) -> Ring:
    """Add the corners that other rings have on the edges of a ring: borders match by corners.

    Args:
        ring: Whole pixels.
        nodes: Keys of the corners of all rings, sorted.
    """
    steps = np.diff(ring, axis=0)
    lengths = np.abs(steps).sum(axis=1)  # edges are horizontal or vertical
    along = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    dense = np.repeat(ring[:-1], lengths, axis=0)
    dense += np.repeat(np.sign(steps), lengths, axis=0) * along[:, None]
    keys = _keys(dense)
    kept = dense[nodes[np.searchsorted(nodes, keys)] == keys]
    return np.vstack((kept, kept[:1])).astype(np.float64)


def _rings(shape: Any) -> tuple[Ring, ...]:
    return tuple(np.array(ring.coords) for ring in (shape.exterior, *shape.interiors))
