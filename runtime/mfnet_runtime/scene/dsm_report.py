"""What a DSM and its image have to do with each other, for people and for the JSON summary."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from mfnet_runtime.raster.crs import datum_name, height_system, short_name
from mfnet_runtime.scene.dsm import HeightBand
from mfnet_runtime.scene.dsm_warp import AlignedHeights
from mfnet_runtime.scene.reprojection import Grid


@dataclass(frozen=True)
class Alignment:
    """How heights came onto the image's grid."""

    image: Grid
    dsm: Grid
    resampling: str | None  # None: the DSM lies on the image's grid already
    overlap: float  # share of the image that lies on the DSM
    finer: float  # DSM pixels across an image pixel
    corner: tuple[float, float]  # (row, column) of the image's first corner, in DSM pixels
    error: float  # pixels of the DSM by which places may be off
    height_unit: str | None  # as stated; heights are never converted
    height_datum: str | None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types only."""
        return {
            "resampling": self.resampling,
            "image": _grid_json(self.image),
            "dsm": _grid_json(self.dsm),
            "overlap": round(self.overlap, 4),
            "dsm_pixels_per_image_pixel": round(self.finer, 6),
            "image_corner_on_dsm": [round(at, 6) for at in self.corner],
            "place_error_px": self.error,
            "height_unit": self.height_unit,
            "height_datum": self.height_datum,
        }

    def sentence(self) -> str:
        """One line."""
        heights = (
            f"heights in {self.height_unit or 'an unstated unit'} above "
            f"{self.height_datum or 'an unstated datum'}"
        )
        if self.resampling is None:
            return f"DSM is on the image's grid, {_grid_words(self.image)}; {heights}"
        datums = datum_name(self.image.crs), datum_name(self.dsm.crs)
        differing = f"; datum {datums[0]} from {datums[1]}" if datums[0] != datums[1] else ""
        return (
            f"DSM of {_grid_words(self.dsm)} aligned to {_grid_words(self.image)}, "
            f"{self.resampling}; it covers {self.overlap:.1%} of the image{differing}; {heights}"
        )


def alignment_from_heights(
    band: HeightBand, heights: HeightBand | AlignedHeights, image: Grid, dsm: Grid
) -> Alignment:
    """The report of an open scene.

    Args:
        band: Of the DSM.
        heights: As they are read: the band itself where it is on the image's grid.
        image: The image's grid.
        dsm: The DSM's.
    """
    stated = height_system(dsm.crs)
    unit, datum = band.unit or stated.unit, stated.datum
    if isinstance(heights, HeightBand):
        return Alignment(image, dsm, None, 1.0, 1.0, (0.0, 0.0), 0.0, unit, datum)
    zero = np.zeros((1, 1))
    row, column = (float(axis[0, 0]) for axis in heights.map(zero, zero))
    return Alignment(
        image,
        dsm,
        heights.resampling,
        heights.overlap,
        heights.finer,
        (row, column),
        heights.map.error,
        unit,
        datum,
    )


def _grid_json(grid: Grid) -> dict[str, Any]:
    return {
        "height": grid.height,
        "width": grid.width,
        "crs": short_name(grid.crs),
        "datum": datum_name(grid.crs),
        "pixel_size": list(grid.pixel_size),
        "unit": grid.unit,
        "transform": list(grid.transform)[:6],
    }


def _grid_words(grid: Grid) -> str:
    across, down = grid.pixel_size
    size = f"{across:.6g}" if across == down else f"{across:.6g} x {down:.6g}"
    return f"{grid.height} x {grid.width} px of {size} {grid.unit} ({short_name(grid.crs)})"
