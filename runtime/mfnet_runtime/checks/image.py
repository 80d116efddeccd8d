"""Rules for an image: bands, range of values, masks."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mfnet_runtime.checks.findings import Said
from mfnet_runtime.checks.statistics import QUICK, Statistics, is_lossy
from mfnet_runtime.contract import Contract
from mfnet_runtime.errors import SceneError
from mfnet_runtime.raster.open import reading
from mfnet_runtime.scene.image import ImageBands, pixel_size
from mfnet_runtime.scene.normalize import BoolArray
from mfnet_runtime.scene.options import ReadOptions

DARK = 1 / 4  # share of the full scale below which nearly all values of an image are odd
BORDER = 0.01  # share of the pixels that one colour may have before it looks like a margin
NEAR = 15.0  # by which JPEG changes most pixels of a black margin; see benchmarks/TRIED.md
RIM, LEFT = 8, 0.2  # width in pixels, and share of near nodata, of what surrounds nodata
BETWEEN = 0.05  # share of an alpha band that may be neither transparent nor opaque
FACTOR = 1.5  # between pixel sizes of image and model, from which classes may be wrong
SPARSE = 0.5  # share of valid pixels that is worth a note
# What files call bands, in lower case without punctuation; numbers are Sentinel-2's.
COLOURS = {
    "red": ("red", "r", "b4", "b04"),
    "green": ("green", "g", "b3", "b03"),
    "blue": ("blue", "b", "b2", "b02"),
    "near infrared": ("near infrared", "nearinfrared", "infrared", "nir", "ir", "b8", "b08"),
}


@dataclass(frozen=True)
class ImageFacts:
    """The facts of an image that the rules use."""

    bands: ImageBands
    statistics: Statistics
    contract: Contract  # of the model
    options: ReadOptions


def band_names(image: ImageFacts) -> Said:
    """Compare the colours that the file states with those that the model expects."""
    bands, options = image.bands, image.options
    wanted = image.contract.image.bands
    expected = tuple(_colour(name) for name in wanted)
    names = options.band_names or _colours(bands)
    numbers = ",".join(map(str, bands.bands))
    called = tuple(names[band - 1] for band in bands.bands)
    if not set(called) <= COLOURS.keys() or called == expected:
        yield "ok", f"bands {numbers} are used as {', '.join(wanted)}"
        return
    remedy = "use a model trained on such images, or choose the bands in that order with --bands"
    if set(expected) <= set(names):
        remedy = f"use --bands {','.join(str(names.index(name) + 1) for name in expected)}"
    source = "the dataset has" if options.band_names else "the file names its"
    yield (
        "warning",
        f"{bands.path}: the model expects {', '.join(wanted)}, but {source} bands "
        f"{numbers} {', '.join(called)}; {remedy}",
    )


def _colours(bands: ImageBands) -> tuple[str, ...]:
    """Return the colours of all bands of a file: of their descriptions, or else of their flags."""
    stated = zip(bands.dataset.descriptions, bands.names, strict=True)
    return tuple(
        colour if (colour := _colour(text)) in COLOURS else _colour(flag) for text, flag in stated
    )


def _colour(text: str | None) -> str:
    """Return the colour that a description or flag of a band states, or else the text."""
    plain = re.sub(r"[^a-z0-9]+", " ", (text or "").lower()).strip()
    return next((colour for colour, names in COLOURS.items() if plain in names), plain)


def sizes_differ(one: float | None, other: float | None) -> bool:
    """Tell if two pixel sizes are too far apart for one network; one that is unknown is not."""
    return one is not None and other is not None and not 1 / FACTOR <= one / other <= FACTOR


def ground_size(image: ImageFacts) -> Said:
    """Compare the size of the pixels on the ground with that of the training images."""
    expected = image.contract.pixel_size
    if expected is None:
        return
    found = pixel_size(image.bands.dataset, image.options)
    if found is None:
        yield (
            "note",
            "the size of the pixels on the ground is unknown (no CRS or geotransform); the model "
            f"was trained on {expected:.3g} m",
        )
    elif image.options.resample_to and found == expected:
        yield "ok", f"the image is read at the model's pixel size, {expected:.3g} m"
    elif not sizes_differ(found, expected):
        yield "ok", f"pixels are {found:.3g} m on the ground, the model's {expected:.3g} m"
    else:
        yield (
            "warning",
            f"{image.bands.path}: pixels are {found:.3g} m on the ground, the model was trained on "
            f"{expected:.3g} m, and objects of another size in pixels get wrong classes; use "
            "--resample-to model",
        )


def valid_pixels(image: ImageFacts) -> Said:
    """Warn of an image without a valid pixel, and note one with few."""
    found = image.statistics
    if not found.valid:
        yield (
            "warning",
            f"{image.bands.path}: there is no valid pixel{found.where} ({found.causes}), and "
            "nodata gets no class; check its nodata value and masks with gdalinfo",
        )
    elif found.valid < SPARSE:
        yield "note", f"only {found.valid:.1%} of the image is valid{found.where} ({found.causes})"


def values_fit(image: ImageFacts) -> Said:
    """Compare the range of values with the model's.

    Raises:
        SceneError: values outside of the model's range, which end a run.
    """
    found, options, path = image.statistics, image.options, image.bands.path
    if not found.valid or options.image_percentiles:
        return
    low, high = found.common
    remedy = "use --image-range MIN MAX"
    if low < high:
        remedy = f"use --image-range {low:.6g} {high:.6g}, or --image-percentiles 2 98"
    text = f"nearly all pixel values lie in {low:g} .. {high:g}"
    start, stop, whose = 0.0, image.bands.full_scale, "the model's range"
    if options.image_range:
        start, stop, whose = *options.image_range, "the given range"
    else:
        try:
            image.bands.require_in_scale(min(found.low), max(found.high))
        except SceneError:
            yield "note", f"{text}; {remedy}"
            raise
    if high >= start + DARK * (stop - start):
        yield "ok", f"pixel values fit {whose}, {start:g} to {stop:g}"
    else:
        yield (
            "warning",
            f"{path}: {text}, which is dark in {whose}, {start:g} to {stop:g}; if the image is not "
            f"meant to be dark, {remedy}",
        )


def flat_bands(image: ImageFacts) -> Said:
    """Warn of bands with one value only."""
    found, numbers = image.statistics, image.bands.bands
    ends = zip(numbers, found.low, found.high, strict=True) if found.valid else ()
    flat = {band: low for band, low, high in ends if low == high}
    if len(flat) == len(numbers) and len(set(flat.values())) == 1:
        text = f"all bands are {found.low[0]:g} in every valid pixel, so heights alone decide"
    elif flat:
        listed = ", ".join(f"band {band} is {value:g}" for band, value in flat.items())
        text = f"{listed} in every valid pixel, which tells the network nothing"
    else:
        return
    remedy = "check how the file was written, or choose other --bands"
    yield "warning", f"{image.bands.path}: {text}{found.where}; {remedy}"


def margins(image: ImageFacts) -> Said:
    """Note plain black or white that counts as data."""
    sample = image.statistics.sample
    near = f" --nodata-tolerance {NEAR:g}" if is_lossy(image.bands.dataset) else ""
    largest = np.iinfo(sample.dtype).max if sample.dtype.kind in "iu" else None
    for colour, value in (("black", 0), ("white", largest)):
        share = (sample == value).all(axis=0).mean() if sample.size and value is not None else 0.0
        if BORDER <= share < 1:
            yield (
                "note",
                f"{share:.1%} of the pixels are plain {colour} and count as data; if they are a "
                f"margin, use --nodata-image {value}{near}",
            )


def lossy_margins(image: ImageFacts) -> Said:
    """Warn of pixels beside nodata that compression has changed a little."""
    bands = image.bands
    if bands.tolerance or not bands.nodata or not is_lossy(bands.dataset):
        return
    beside = near = 0
    for window in QUICK.windows(bands.dataset):
        pixels, valid = bands.stored(window)
        rim = valid & _grown(~valid, RIM)
        close = [bands.without_data(pixels, nodata, NEAR) for nodata in bands.nodata]
        beside += int(np.count_nonzero(rim))
        near += int(np.count_nonzero(np.logical_or.reduce(close) & rim))
    if near > LEFT * beside:
        yield (
            "warning",
            f"{bands.path}: {near / beside:.0%} of the pixels beside nodata are within {NEAR:g} of "
            "its value, as lossy compression leaves them in a margin, and count as data; use "
            f"--nodata-tolerance {NEAR:g}",
        )


def _grown(mask: BoolArray, pixels: int) -> BoolArray:
    """Grow a mask (row, column) by some pixels in all eight directions."""
    for turned in (mask, mask.T):
        before = turned.copy()
        for step in range(1, pixels + 1):
            turned[step:] |= before[:-step]
            turned[:-step] |= before[step:]
    return mask


def alpha_as_data(image: ImageFacts) -> Said:
    """Warn of an alpha band with values like those of an infrared band."""
    bands = image.bands
    if not bands.alpha:
        return
    with reading(bands.path):
        parts = [
            bands.dataset.read(bands.alpha, window=window).ravel()
            for window in QUICK.windows(bands.dataset)
        ]
    alpha = np.concatenate(parts)
    largest = max(float(alpha.max()), 0.0)
    # opaque is 1, 255, or the largest value of another number of bits
    opaque = largest if math.log2(largest + 1).is_integer() else math.inf
    between = float(((alpha > 0) & (alpha < opaque)).mean())
    if between > BETWEEN:
        yield (
            "warning",
            f"{bands.path}: band {bands.alpha} is flagged as alpha and masks "
            f"{(alpha == 0).mean():.1%} of the pixels, but {between:.1%} of its values are neither "
            "transparent nor opaque, as in a near-infrared band; if it is one, use --ignore-alpha",
        )


RULES: tuple[Callable[[ImageFacts], Said], ...] = (
    band_names,
    ground_size,
    valid_pixels,
    values_fit,
    flat_bands,
    margins,
    lossy_margins,
    alpha_as_data,
)
