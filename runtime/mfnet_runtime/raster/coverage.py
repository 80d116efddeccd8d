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


def simplified(polygons: Sequence[Polygon], tolerance: float) -> list[Polygon]:
    """Leave out corners of polygons; none vanishes, and neighbours keep a common border.

    Args:
        polygons: Of pixels, without overlaps.
        tolerance: Pixels; a corner is left out if its triangle with the corners beside it has
            less area than a square of this side (Visvalingam and Whyatt).

    Raises:
        ModuleNotFoundError: Shapely is not installed.
    """
    shapely = coverage_package()
    rings = [ring.astype(np.int64) for polygon in polygons for ring in polygon.rings]
    if not rings:
        return []
    columns, rows = np.max([ring.max(axis=0) for ring in rings], axis=0)
    nodes = np.zeros((rows + 1, columns + 1), np.bool_)
    for ring in rings:
        nodes[ring[:, 1], ring[:, 0]] = True
    each = iter(rings)
    whole = [
        shapely.Polygon(outer, holes)
        for outer, *holes in (
            [_with_nodes(next(each), nodes) for _ in polygon.rings] for polygon in polygons
        )
    ]
    return [
        Polygon(polygon.index, _rings(shape))
        for polygon, shape in zip(
            polygons, shapely.coverage_simplify(whole, tolerance), strict=True
        )
    ]


def coverage_package() -> Any:
    """Import Shapely, which the extra `vector` installs."""
    return import_module("shapely")


def _with_nodes(ring: npt.NDArray[np.int64], nodes: npt.NDArray[np.bool_]) -> Ring:
    """Add the corners that other rings have on the edges of a ring: borders match by corners."""
    steps = np.diff(ring, axis=0)
    lengths = np.abs(steps).sum(axis=1)  # edges are horizontal or vertical
    along = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    dense = np.repeat(ring[:-1], lengths, axis=0)
    dense += np.repeat(np.sign(steps), lengths, axis=0) * along[:, None]
    kept = dense[nodes[dense[:, 1], dense[:, 0]]]
    return np.vstack((kept, kept[:1])).astype(np.float64)


def _rings(shape: Any) -> tuple[Ring, ...]:
    return tuple(np.array(ring.coords) for ring in (shape.exterior, *shape.interiors))
