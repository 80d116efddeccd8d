"""Whether an image can be what the model expects: bands, number range, what masks its pixels."""

from __future__ import annotations

from mfnet_runtime.contract import Contract
from mfnet_runtime.preflight.findings import Findings
from mfnet_runtime.preflight.image_statistics import ImageLook, alpha_band
from mfnet_runtime.preflight.raster_info import RasterFacts
from mfnet_runtime.preflight.statistics import in_words
from mfnet_runtime.scene.image import ImageBands
from mfnet_runtime.scene.options import ReadOptions

DARK = 1 / 4  # of the full scale: below it lie nearly all pixels of an image on another scale
BORDER = 0.01  # share of the pixels that one colour may have before it looks like a margin
MANY = 0.05  # share of an alpha band that may be neither clear nor opaque
COLOURS = {"red", "green", "blue"}  # that both a file and a contract may name


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
        where = "" if look.share == 1 else " where looked at"
        found.warning(
            "image",
            f"{pixels.path}: has no pixel with data{where}, which comes out as nodata "
            f"({in_words(look.masked)}); check its nodata value and masks with gdalinfo",
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
            f"{pixels.path}: band {alpha_band(facts)} is flagged as alpha and masks pixels, "
            "but holds many values like an infrared band; if it is one, --ignore-alpha",
        )
    if look.valid < 0.5:
        found.note(
            "image", f"only {look.valid:.1%} of the image has data ({in_words(look.masked)})"
        )
