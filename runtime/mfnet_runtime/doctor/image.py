"""Whether an image can be what the model expects: bands, number range, what masks its pixels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from rasterio.enums import MaskFlags
from rasterio.windows import Window

from mfnet_runtime.contract import Contract
from mfnet_runtime.doctor.facts import RasterFacts
from mfnet_runtime.doctor.findings import Findings
from mfnet_runtime.doctor.look import Counts, Sample, Spread, Values, sample_of
from mfnet_runtime.image import ImageBands
from mfnet_runtime.raster_file import reading
from mfnet_runtime.read_options import ReadOptions

DARK = 1 / 4  # of the full scale: below it lie nearly all pixels of an image on another scale
BORDER = 0.01  # share of the pixels that one colour may have before it looks like a margin
MANY = 0.05  # share of an alpha band that may be neither clear nor opaque
COLOURS = {"red", "green", "blue"}  # that both a file and a contract may name


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


def look_at_image(pixels: ImageBands, facts: RasterFacts, options: ReadOptions) -> ImageLook:
    """Reads all of an image, or an even sample.

    Raises:
        SceneError: damaged data.
    """
    sample, dataset = sample_of(pixels.dataset), pixels.dataset
    count = len(pixels.bands)
    spreads = [Spread(_size(sample)) for _ in range(count)]
    causes, valid_pixels, black, white, between = Counts(), 0, 0, 0, 0
    farthest, distance = None, -1.0
    alpha = _alpha(facts) if options.use_alpha else None
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


def examine_image(
    found: Findings,
    pixels: ImageBands,
    look: ImageLook,
    facts: RasterFacts,
    contract: Contract,
    options: ReadOptions,
) -> None:
    """Findings on an image whose bands a run would take.

    Args:
        found: Gets them.
        pixels: Open.
        look: At them.
        facts: Of the file.
        contract: Of the model.
        options: How a run would read.
    """
    _examine_bands(found, pixels, facts, contract)
    if not look.low:
        found.warning(
            "image",
            f"{pixels.path}: has no pixel with data, everything would come out as nodata "
            f"({_list(look.masked)}); check its nodata value and masks with gdalinfo",
        )
        return
    stretched = options.image_range is not None or options.image_percentiles is not None
    if look.farthest is not None and not stretched:
        with found.refusals("image"):
            pixels.read(look.farthest)
    _examine_spread(found, pixels, look)
    if not stretched:
        _examine_range(found, pixels, look)
    _examine_masks(found, pixels, look, facts)


def _examine_bands(
    found: Findings, pixels: ImageBands, facts: RasterFacts, contract: Contract
) -> None:
    """Which bands are used, and whether they are called as the model's are."""
    expected = contract.image.bands
    called = tuple(facts.bands[band - 1] for band in pixels.bands)
    numbers = ",".join(map(str, pixels.bands))
    if set(called) <= COLOURS and called != tuple(expected):
        where = {name: index for index, name in enumerate(facts.bands, start=1)}
        remedy = "give a model trained on such an image, or the bands in that order with --bands"
        if all(name in where for name in expected):
            remedy = f"--bands {','.join(str(where[name]) for name in expected)}"
        found.warning(
            "image",
            f"{pixels.path}: the model expects {', '.join(expected)}, the file calls its bands "
            f"{numbers} {', '.join(called)}; {remedy}",
        )
        return
    found.ok("image", f"bands {numbers} are the model's {', '.join(expected)}")


def _examine_spread(found: Findings, pixels: ImageBands, look: ImageLook) -> None:
    flat = [
        f"{band} is {low:g}"
        for band, low, high in zip(pixels.bands, look.low, look.high, strict=True)
        if low == high
    ]
    if flat and len({*look.low, *look.high}) > 1:  # else the warning of a run says so
        found.warning(
            "image",
            f"{pixels.path}: band {', band '.join(flat)} wherever there is data, which tells the "
            "network nothing; choose others with --bands, or check how the file was written",
        )


def _examine_range(found: Findings, pixels: ImageBands, look: ImageLook) -> None:
    """Whether pixel values as stored fit the model's full scale."""
    (low, high), full = look.common, pixels.full_scale
    remedy = "give their range with --image-range"
    if low < high:
        remedy = f"--image-range {low:.6g} {high:.6g}, or --image-percentiles 2 98"
    if found.refused("image"):
        found.note("image", f"nearly all pixel values lie in {low:g} .. {high:g}: {remedy}")
        return
    odd = pixels.warning()
    if odd is None and high < DARK * full:
        odd = (
            f"{pixels.path}: nearly all pixel values lie in {low:g} .. {high:g}, the model expects "
            f"0 to {full:g} and sees a dark image; if it is none, {remedy}"
        )
    if odd:
        found.warning("image", odd)
    else:
        found.ok("image", f"pixel values fit the model's 0 to {full:g}")


def _examine_masks(
    found: Findings, pixels: ImageBands, look: ImageLook, facts: RasterFacts
) -> None:
    for colour, share, value in (("black", look.black, 0), ("white", look.white, look.largest)):
        if BORDER <= share < 1:
            found.note(
                "image",
                f"{share:.1%} of the pixels are plain {colour} and count as data; if that is a "
                f"margin, --nodata-image {value}",
            )
    if look.alpha_between > MANY:
        found.warning(
            "image",
            f"{pixels.path}: band {_alpha(facts)} is flagged as alpha and masks pixels, "
            "but holds many values like an infrared band; if it is one, --ignore-alpha",
        )
    if look.valid < 0.5:
        found.note("image", f"only {look.valid:.1%} of the image has data ({_list(look.masked)})")


def _causes(
    pixels: ImageBands, values: Values, valid: Any, window: Window, options: ReadOptions
) -> Iterator[tuple[str, Any]]:
    """Pixels without data by cause, the surest first."""
    dataset = pixels.dataset
    yield "NaN or infinite", ~np.isfinite(values).all(axis=0)
    flags = dataset.mask_flag_enums[pixels.bands[0] - 1]
    declared = [dataset.nodatavals[band - 1] for band in pixels.bands]
    of_file = "nodata value " + ", ".join(dict.fromkeys(f"{value}" for value in declared))
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


def _alpha(facts: RasterFacts) -> int | None:
    """The band, from 1, that the file calls so."""
    return facts.bands.index("alpha") + 1 if "alpha" in facts.bands else None


def _size(sample: Sample) -> int:
    return sum(window.width * window.height for window in sample.windows)


def _list(shares: dict[str, float]) -> str:
    return ", ".join(f"{name} {share:.1%}" for name, share in shares.items())
