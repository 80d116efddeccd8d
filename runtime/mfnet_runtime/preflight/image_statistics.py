"""Looks through an image: range of its bands, and what masks its pixels, by cause."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from rasterio.enums import MaskFlags
from rasterio.windows import Window

from mfnet_runtime.preflight.raster_info import RasterFacts
from mfnet_runtime.preflight.statistics import Counts, Spread, Values, sample_of
from mfnet_runtime.raster.open import reading
from mfnet_runtime.scene.image import ImageBands
from mfnet_runtime.scene.options import ReadOptions


@dataclass(frozen=True)
class ImageLook:
    """What the pixels of an image were found to hold."""

    share: float  # of the pixels that were looked at
    valid: float  # share of those that have data
    masked: dict[str, float]  # share without data, by cause
    low: tuple[float, ...]  # smallest of the valid values of each band that the model gets
    high: tuple[float, ...]
    common: tuple[float, float]  # percentiles 1 and 99 of all bands
    black: float  # share of the valid pixels that are 0 in all bands
    white: float  # share that are the largest number in all bands; 0 for floats
    largest: int | None  # that number
    alpha_between: float  # share of an alpha band, that is heeded, neither clear nor opaque
    farthest: Window | None  # where the value lies that is farthest off

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types only."""
        return {
            "looked_at": round(self.share, 4),
            "valid": round(self.valid, 6),
            "masked": {name: round(share, 6) for name, share in self.masked.items()},
            "low": list(self.low),
            "high": list(self.high),
            "percentiles_1_99": list(self.common),
        }


def look_at_image(
    pixels: ImageBands, facts: RasterFacts, options: ReadOptions, heights: int | None = None
) -> ImageLook:
    """Reads all of an image, or an even sample.

    Args:
        pixels: Open.
        facts: Of the file.
        options: How a run would read.
        heights: A band of this file that holds heights, and no alpha whatever it is called.

    Raises:
        SceneError: damaged data.
    """
    sample, dataset = sample_of(pixels.dataset), pixels.dataset
    count = len(pixels.bands)
    spreads = [Spread(sample.pixels) for _ in range(count)]
    causes, valid_pixels, black, white, between = Counts(), 0, 0, 0, 0
    farthest, distance = None, -1.0
    alpha = alpha_band(facts) if options.use_alpha else None
    alpha = None if alpha == heights else alpha
    kind = np.dtype(dataset.dtypes[0])
    largest = int(np.iinfo(kind).max) if np.issubdtype(kind, np.integer) else None
    for window in sample.windows:
        values, valid = pixels.stored(window)
        causes.add(_causes(pixels, values, valid, window, options), valid.size)
        seen = values[:, valid]
        valid_pixels += seen.shape[1]
        for band, spread in zip(seen, spreads, strict=True):
            spread.add(band)
        black += int(np.count_nonzero((seen == 0).all(axis=0)))
        if largest is not None:
            white += int(np.count_nonzero((seen == largest).all(axis=0)))
        if alpha is not None:
            between += _between(pixels, alpha, window)
        if seen.size:
            off = max(float(seen.max()) - pixels.full_scale, -float(seen.min()))
            if off > distance or farthest is None:
                farthest, distance = window, off
    ends = [spread.percentiles(1, 99) for spread in spreads]
    return ImageLook(
        share=sample.share,
        valid=valid_pixels / max(causes.pixels, 1),
        masked=causes.shares(),
        low=tuple(spread.low for spread in spreads) if valid_pixels else (),
        high=tuple(spread.high for spread in spreads) if valid_pixels else (),
        common=(min(low for low, _ in ends), max(high for _, high in ends)),
        black=black / max(valid_pixels, 1),
        white=white / max(valid_pixels, 1),
        largest=largest,
        alpha_between=between / max(causes.pixels, 1),
        farthest=farthest,
    )


def _causes(
    pixels: ImageBands, values: Values, valid: Any, window: Window, options: ReadOptions
) -> Iterator[tuple[str, Any]]:
    """Pixels without data by cause, the surest first."""
    dataset = pixels.dataset
    yield "NaN or infinite", ~np.isfinite(values).all(axis=0)
    flags = dataset.mask_flag_enums[pixels.bands[0] - 1]
    declared = [dataset.nodatavals[band - 1] for band in pixels.bands]
    of_file = "nodata value " + ", ".join(
        dict.fromkeys(f"{value:g}" for value in declared if value is not None)
    )
    if MaskFlags.per_dataset in flags:
        with reading(pixels.path):
            clear = dataset.dataset_mask(window=window) == 0
        name = "alpha band" if MaskFlags.alpha in flags else "mask band"
        yield name, clear & ~valid  # none where alpha is not heeded
    if options.image_nodata is not None:
        asked = (values == options.image_nodata).any(axis=0)
        yield f"--nodata-image {options.image_nodata:g}", asked & ~valid
    yield of_file, ~valid


def _between(pixels: ImageBands, alpha: int, window: Window) -> int:
    """Pixels of an alpha band that are neither clear nor opaque."""
    with reading(pixels.path):
        band = pixels.dataset.read(alpha, window=window)
    return int(np.count_nonzero((band > 0) & (band < band.max())))


def alpha_band(facts: RasterFacts) -> int | None:
    """The band, from 1, that the file calls so."""
    return facts.bands.index("alpha") + 1 if "alpha" in facts.bands else None
