"""Looks through a DSM on its own grid: range, roughness, and what is no height, by cause."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from rasterio.enums import MaskFlags
from rasterio.windows import Window

from mfnet_runtime.preflight.raster_info import RasterFacts
from mfnet_runtime.preflight.statistics import Counts, End, Spread, Values, sample_of
from mfnet_runtime.raster.crs import height_system
from mfnet_runtime.raster.open import reading
from mfnet_runtime.scene.dsm import HEIGHT_LIMITS, HeightBand
from mfnet_runtime.scene.normalize import BoolArray, FloatArray

EVERY = 16  # rows of which one is looked at for roughness
USUAL = 98  # percent of the steps that count for it: the others may be nodata that nobody declared
BEYOND = "not between {:g} and {:g}".format(*HEIGHT_LIMITS)


@dataclass(frozen=True)
class HeightLook:
    """What a DSM was found to hold, on its own grid."""

    share: float  # of the pixels that were looked at
    valid: float  # share of those that hold a height
    masked: dict[str, float]  # share that do not, by cause
    low: float  # of the heights
    high: float
    common: tuple[float, float]  # percentiles 1 and 99
    lowest: End
    highest: End  # negated
    roughness: float | None  # height units up and down for a metre on the ground; None: unknown
    unit: str | None  # stated by the file
    pixels: int  # looked at

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types only."""
        empty = not self.valid
        return {
            "looked_at": round(self.share, 4),
            "valid": round(self.valid, 6),
            "masked": {name: round(share, 6) for name, share in self.masked.items()},
            "low": None if empty else self.low,
            "high": None if empty else self.high,
            "percentiles_1_99": None if empty else list(self.common),
            "roughness": None if self.roughness is None else round(self.roughness, 3),
            "unit": self.unit,
        }


def look_at_heights(band: HeightBand, facts: RasterFacts) -> HeightLook:
    """Reads all of a DSM, or an even sample.

    Raises:
        SceneError: damaged data.
    """
    sample = sample_of(band.dataset)
    spread, steps = Spread(sample.pixels), Spread(sample.pixels // EVERY)
    causes, lowest, highest = Counts(), End(), End()
    for window in sample.windows:
        heights, valid = band.read(window)
        causes.add(_causes(band, heights, valid, window), valid.size)
        values = heights[valid]
        spread.add(values)
        lowest.add(values)
        highest.add(-values)
        steps.add(_steps(heights[::EVERY], valid[::EVERY]))
    low, high = spread.percentiles(1, 99)
    ground = facts.pixel_size[0] * (facts.metres or 0)  # metres across a pixel
    return HeightLook(
        share=sample.share,
        valid=spread.count / max(causes.pixels, 1),
        masked=causes.shares(),
        low=spread.low,
        high=spread.high,
        common=(low, high),
        lowest=lowest,
        highest=highest,
        roughness=steps.mean_below(USUAL) / ground if ground and steps.count else None,
        unit=band.unit or height_system(band.dataset.crs).unit,
        pixels=causes.pixels,
    )


def _causes(
    band: HeightBand, heights: FloatArray, valid: BoolArray, window: Window
) -> Iterator[tuple[str, Any]]:
    """Pixels without a height by cause, the surest first."""
    dataset, place = band.dataset, band.band
    with reading(band.path):
        masked = dataset.read_masks(place, window=window) == 0
        stored = dataset.read(place, window=window)
    flags = dataset.mask_flag_enums[place - 1]
    if MaskFlags.nodata in flags:
        yield f"nodata value {dataset.nodatavals[place - 1]:g}", masked
    else:
        yield "alpha band" if MaskFlags.alpha in flags else "mask band", masked
    if band.nodata is not None:
        yield f"--nodata-dsm {band.nodata:g}", stored == band.nodata
    yield "NaN or infinite", ~np.isfinite(heights)
    yield BEYOND, ~valid


def _steps(heights: Values, valid: BoolArray) -> Values:
    """How far rows go up or down between neighbours, (n,)."""
    both = valid[:, 1:] & valid[:, :-1]
    return np.asarray(np.abs(np.diff(np.where(valid, heights, np.float32(0)), axis=1))[both])
