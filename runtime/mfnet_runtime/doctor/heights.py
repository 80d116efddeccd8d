"""Whether a DSM can be heights that the model sees well: range, unit, holes, outliers.

A unit that no file states is only guessed, from how rough the surface would be; feet and metres
look alike.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from rasterio.enums import MaskFlags
from rasterio.windows import Window

from mfnet_runtime.contract import DsmRule
from mfnet_runtime.crs import height_system
from mfnet_runtime.doctor.facts import RasterFacts
from mfnet_runtime.doctor.findings import Findings
from mfnet_runtime.doctor.look import Counts, End, Spread, Values, sample_of
from mfnet_runtime.heights import HEIGHT_LIMITS, HeightBand
from mfnet_runtime.raster_file import reading
from mfnet_runtime.scaling import BoolArray, FloatArray

USED = 0.2  # share of the network's input range that nearly all heights should use
FLAGGED = 1e-4  # share of the pixels from which one value at an end, far from others, is a flag
SEVERAL = 10  # and their number: fewer are errors of measurement
APART = 0.2  # how far, as a share of the range that nearly all heights lie in
ROUGH = 10.0  # metres up and down for a metre on the ground; cities and forests have one or two
EVERY = 16  # rows of which one is looked at for that
USUAL = 98  # percent of the steps that count for it: the others may be nodata that nobody declared
LOSSY = ("JPEG", "WEBP", "JPEG2000")
METRES = {"metre", "meter", "metres", "meters", "m"}


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
    pixels = sum(window.width * window.height for window in sample.windows)
    spread, steps = Spread(pixels), Spread(pixels // EVERY)
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


def examine_heights(
    found: Findings, band: HeightBand, look: HeightLook, facts: RasterFacts, rule: DsmRule
) -> None:
    """Findings on heights that a run would take.

    Args:
        found: Gets them.
        band: Open.
        look: At it.
        facts: Of the file.
        rule: By which heights become network input.
    """
    path = band.path
    if not look.valid:
        found.warning(
            "dsm",
            f"{path}: holds no height, everything would come out as nodata ({_list(look.masked)}); "
            "check its nodata value with gdalinfo",
        )
        return
    if not look.low < look.high:
        found.warning(
            "dsm",
            f"{path}: every height is {look.low:g}, the network sees a flat scene and decides by "
            "colour alone; give the right DSM",
        )
        return
    flagged = _examine_ends(found, band, look)
    _examine_range(found, band, look, rule, flagged)
    _examine_unit(found, band, look, facts, rule)
    if facts.compression in LOSSY:
        found.note("dsm", f"heights are stored as {facts.compression}, which may blur them")
    scale, offset = (pair[band.band - 1] for pair in (band.dataset.scales, band.dataset.offsets))
    if (scale, offset) != (1.0, 0.0):
        found.note("dsm", f"heights are packed: stored x {scale:g} + {offset:g}, as a run reads it")


def _examine_ends(found: Findings, band: HeightBand, look: HeightLook) -> bool:
    """Values that stand for no height though nothing says so."""
    beyond = look.masked.get(_BEYOND, 0.0)
    if beyond:
        found.note(
            "dsm",
            f"{beyond:.2%} of the pixels hold values that no place on Earth has ({_BEYOND}); they "
            "are taken for nodata",
        )
    relief = look.common[1] - look.common[0]
    flagged = False
    for end, sign in ((look.lowest, 1), (look.highest, -1)):
        gap = end.next - end.last
        enough = max(SEVERAL, FLAGGED * look.pixels)
        if np.isfinite(gap) and gap > APART * relief and end.count >= enough:
            flagged = True
            value = sign * end.last
            found.warning(
                "dsm",
                f"{band.path}: {end.count / look.pixels:.2%} of the pixels are exactly {value:g}, "
                f"the next height is {sign * end.next:g}: nodata that is not declared?; "
                f"--nodata-dsm {value:g}",
            )
    return flagged


def _examine_range(
    found: Findings, band: HeightBand, look: HeightLook, rule: DsmRule, flagged: bool
) -> None:
    """Whether the network can tell heights from each other."""
    low, high = look.common
    if rule.name == "range":
        low_end, high_end = max(low, rule.low), min(high, rule.high)
        used = max(high_end - low_end, 0.0) / (rule.high - rule.low)
        if low < rule.low or high > rule.high:
            found.warning(
                "dsm",
                f"{band.path}: heights of {low:g} .. {high:g} do not lie in the range "
                f"{rule.low:g} .. {rule.high:g} that becomes 0 .. 1, and what lies outside looks "
                f"flat; {_remedy(low, high, rule)}",
            )
            return
    elif rule.name == "scene_minmax":
        used = (high - low) / (look.high - look.low)
    else:
        used = 1.0
    text = f"nearly all heights, {low:.6g} .. {high:.6g}, use {used:.0%} of the network's range"
    if used >= USED:
        found.ok("dsm", text)
    elif not flagged:  # whose remedy is this one's too
        whole = "" if rule.name == "range" else f" of {look.low:.6g} .. {look.high:.6g}"
        found.warning("dsm", f"{band.path}: {text}{whole}; {_remedy(low, high, rule)}")


def _examine_unit(
    found: Findings, band: HeightBand, look: HeightLook, facts: RasterFacts, rule: DsmRule
) -> None:
    unit, why = _guessed(look, facts) or (look.unit, "as the file states")
    told = f"heights are in {unit}, {why}" if unit else "no file states the unit of the heights"
    if unit is None and facts.metres not in (None, 1.0):
        told += f"; map coordinates are in {facts.unit}, heights may be too"
    if rule.name != "range":
        level = found.note if unit and unit.lower() not in METRES else found.ok
        level("dsm", f"{told}; either way the model scales each scene by its own heights")
    elif unit is not None and unit.lower() not in METRES:
        found.warning(
            "dsm",
            f"{band.path}: {told}, the range {rule.low:g} .. {rule.high:g} is in metres; give the "
            "same range in that unit with --dsm-range, or heights in metres",
        )
    elif unit is None and facts.metres not in (None, 1.0):
        found.warning(
            "dsm",
            f"{band.path}: {told}, and the range {rule.low:g} .. {rule.high:g} is in metres; "
            "if they are, all is well, else use --dsm-range",
        )
    else:
        found.ok("dsm", told)


def _guessed(look: HeightLook, facts: RasterFacts) -> tuple[str, str] | None:
    """A unit that the numbers give away, and how; None for metres, feet, or no idea."""
    stated = (look.unit or "metre").lower()
    if stated in METRES and look.roughness is not None and look.roughness > ROUGH:
        unit = "centimetres" if look.roughness < 100 * ROUGH else "millimetres"
        rough = f"{look.roughness:.0f} m up and down for each on the ground"
        return f"{unit}, it seems", f"metres would make {rough}"
    if look.unit is None and look.low >= 0 and look.high <= 1:
        return "no unit but shares, it seems", f"they lie in {look.low:g} .. {look.high:g}"
    if look.unit is None and facts.dtype == "uint8":
        return "grey values, it seems", "they have 8 bits"
    return None


_BEYOND = "not between {:g} and {:g}".format(*HEIGHT_LIMITS)


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
    yield _BEYOND, ~valid


def _steps(heights: Values, valid: BoolArray) -> Values:
    """How far rows go up or down between neighbours, (n,)."""
    both = valid[:, 1:] & valid[:, :-1]
    return np.asarray(np.abs(np.diff(np.where(valid, heights, np.float32(0)), axis=1))[both])


def _remedy(low: float, high: float, rule: DsmRule) -> str:
    """Another range: of the width that the model knows, where there is one and it suffices."""
    start, stop = float(np.floor(low)), float(np.ceil(high))
    if rule.name == "range":
        stop = max(stop, start + rule.high - rule.low)
    return f"--dsm-range {start:g} {stop:g}"


def _list(shares: dict[str, float]) -> str:
    return ", ".join(f"{name} {share:.1%}" for name, share in shares.items())
