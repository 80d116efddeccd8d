"""Whether a DSM can be heights that the model sees well: range, unit, holes, outliers.

A unit that no file states is only guessed, from how rough the surface would be; feet and metres
look alike.
"""

from __future__ import annotations

import numpy as np

from mfnet_runtime.contract import DsmRule
from mfnet_runtime.preflight.dsm_statistics import BEYOND, HeightLook
from mfnet_runtime.preflight.findings import Findings
from mfnet_runtime.preflight.raster_info import RasterFacts
from mfnet_runtime.preflight.statistics import in_words
from mfnet_runtime.scene.dsm import HeightBand

USED = 0.2  # share of the network's input range that nearly all heights should use
FLAGGED = 1e-4  # share of the pixels from which one value at an end, far from others, is a flag
SEVERAL = 10  # and their number: fewer are errors of measurement
APART = 0.2  # how far, as a share of the range that nearly all heights lie in
ROUGH = 20.0  # metres up and down for a metre on the ground; cities and forests have one or two
LOSSY = ("JPEG", "WEBP", "JPEG2000")
METRES = {"metre", "meter", "metres", "meters", "m"}


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
        where = "" if look.share == 1 else " where looked at"
        found.warning(
            "dsm",
            f"{path}: holds no height{where}, which comes "
            f"out as nodata ({in_words(look.masked)}); check its nodata value with gdalinfo",
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
    beyond = look.masked.get(BEYOND, 0.0)
    if beyond:
        found.note(
            "dsm",
            f"{beyond:.2%} of the pixels hold values that no place on Earth has ({BEYOND}); they "
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
        rough = f"{look.roughness:.0f} m up and down for each on the ground"
        return "centimetres or less, it seems", f"metres would make {rough}"
    if look.unit is None and look.low >= 0 and look.high <= 1:
        return "no unit but shares, it seems", f"they lie in {look.low:g} .. {look.high:g}"
    if look.unit is None and facts.dtype == "uint8":
        return "grey values, it seems", "they have 8 bits"
    return None


def _remedy(low: float, high: float, rule: DsmRule) -> str:
    """Another range: of the width that the model knows, where there is one and it suffices."""
    start, stop = float(np.floor(low)), float(np.ceil(high))
    if rule.name == "range":
        stop = max(stop, start + rule.high - rule.low)
    return f"--dsm-range {start:g} {stop:g}"
