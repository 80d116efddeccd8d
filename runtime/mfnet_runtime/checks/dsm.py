"""Rules for a DSM: range, unit, undeclared nodata.

A unit that the file does not state is guessed from the roughness of the surface; that does not tell
feet from metres.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mfnet_runtime.checks.findings import Said
from mfnet_runtime.checks.statistics import NO_HEIGHT, QUICK, Statistics, is_lossy
from mfnet_runtime.raster.crs import height_system
from mfnet_runtime.raster.grid import grid_of
from mfnet_runtime.raster.pixel_area import ground_size
from mfnet_runtime.scene.dsm import HeightBand
from mfnet_runtime.scene.normalize import DsmRange

USED = 0.2  # share of the network's input range that nearly all heights should use
FLAGGED = 1e-4  # share of the heights from which one value at an end, far from others, is a flag
SEVERAL = 10  # and their number: fewer are errors of measurement
APART = 0.2  # their distance, as a share of the range in which nearly all heights lie
ROUGH = 20.0  # metres up and down for a metre on the ground; cities and forests have one or two
USUAL = 98  # percentile of the steps between neighbours; larger ones may be undeclared nodata
METRES = {"metre", "meter", "metres", "meters", "m"}


@dataclass(frozen=True)
class DsmFacts:
    """The facts of a DSM that the rules use."""

    band: HeightBand
    statistics: Statistics
    span: DsmRange  # heights that become the network's 0 and 1

    @property
    def usable(self) -> bool:
        """True if there are heights, and the network can tell some from others."""
        found = self.statistics
        return bool(found.valid) and found.low < found.high and not self.span.constant

    @property
    def fixed(self) -> bool:
        """True if the model or the user fixes the range, whatever the scene's heights are."""
        return self.span.valid_pixels is None


def no_heights(dsm: DsmFacts) -> Said:
    """Warn of a DSM that is empty or constant."""
    found, path = dsm.statistics, dsm.band.path
    if not found.valid:
        yield (
            "warning",
            f"{path}: there is no valid height{found.where} ({found.causes}), and nodata gets no "
            "class; check its nodata value with gdalinfo",
        )
    elif dsm.span.constant or (found.share == 1 and found.low == found.high):
        yield (
            "warning",
            f"{path}: every height is {found.low[0]:g}, so the network sees a flat scene and "
            "decides by colour alone; check that this is the right DSM",
        )


def undeclared_nodata(dsm: DsmFacts) -> Said:
    """Find values that stand for nodata although the file does not declare them."""
    if not dsm.usable:
        return
    found = dsm.statistics
    if share := found.masked.get(NO_HEIGHT):
        yield (
            "note",
            f"{share:.2%} of the pixels are no possible heights ({NO_HEIGHT}) and count as nodata",
        )
    low, high = found.common
    values, counts = np.unique(found.sample, return_counts=True)
    enough = max(SEVERAL, FLAGGED * found.sample.size)
    for end, neighbour in ((0, 1), (-1, -2)):
        apart = abs(float(values[neighbour]) - float(values[end]))
        if counts[end] >= enough and apart > APART * (high - low):
            share = found.valid * counts[end] / found.sample.size
            yield (
                "warning",
                f"{dsm.band.path}: {share:.2%} of the pixels are exactly {values[end]:g}, and the "
                f"next height is {values[neighbour]:g}; if that value stands for nodata, use "
                f"--nodata-dsm {values[end]:g}",
            )


def input_range(dsm: DsmFacts) -> Said:
    """Check that the network can tell heights from each other."""
    if not dsm.usable:
        return
    (low, high), span, path = dsm.statistics.common, dsm.span, dsm.band.path
    start, stop = float(np.floor(low)), float(np.ceil(high))
    if dsm.fixed:  # the model knows ranges of that width
        stop = max(stop, start + span.high - span.low)
    remedy = f"use --dsm-range {start:g} {stop:g}"
    used = max(min(high, span.high) - max(low, span.low), 0.0) / (span.high - span.low)
    text = f"nearly all heights, {low:.6g} .. {high:.6g}, use {used:.0%} of the network's range"
    if dsm.fixed and (low < span.low or high > span.high):
        yield (
            "warning",
            f"{path}: heights of {low:g} .. {high:g} exceed the range {span.low:g} .. "
            f"{span.high:g} that becomes 0 .. 1, and look flat outside of it; {remedy}",
        )
    elif used >= USED:
        yield "ok", text
    elif all(level != "warning" for level, _ in undeclared_nodata(dsm)):
        yield "warning", f"{path}: {text}, {span.low:.6g} .. {span.high:.6g}; {remedy}"


def unit(dsm: DsmFacts) -> Said:
    """Compare the unit of the heights with metres if the range is in metres."""
    if not dsm.usable:
        return
    band, span, crs = dsm.band, dsm.span, dsm.band.dataset.crs
    stated = band.unit or height_system(crs).unit
    map_unit, metres = crs.units_factor if crs and crs.is_projected else ("", 1.0)
    ground = ground_size(grid_of(band.dataset))
    rough = roughness(band, ground[0]) if ground else 0.0
    odd = stated is not None and stated.lower() not in METRES
    text = f"heights are in {stated}, as the file states"
    if not odd and rough > ROUGH:
        odd = True
        text = (
            "heights seem to be in centimetres or less: in metres, the surface would rise or fall "
            f"{rough:.0f} m for each on the ground"
        )
    elif stated is None:
        low, high = dsm.statistics.low[0], dsm.statistics.high[0]
        if odd := low >= 0 and high <= 1:
            text = f"heights seem to be shares, they lie in {low:g} .. {high:g}"
        elif odd := band.dataset.dtypes[band.band - 1] == "uint8":
            text = "heights seem to be grey values, they have 8 bits"
        else:
            text = "the unit of the heights is not stated"
            if metres != 1.0:
                text += f"; map coordinates are in {map_unit}, so heights may be too"
    if not dsm.fixed:
        text += "; the model scales each scene by its own heights, so the unit does not matter"
        yield "note" if odd else "ok", text
    elif odd or (stated is None and metres != 1.0):
        yield (
            "warning",
            f"{band.path}: {text}, but the range {span.low:g} .. {span.high:g} is in metres; "
            "unless the heights are in metres, give that range in their unit with --dsm-range",
        )
    else:
        yield "ok", text


def roughness(band: HeightBand, ground: float) -> float:
    """Return how much heights rise or fall on average for each metre on the ground.

    Args:
        band: The DSM.
        ground: Width of its pixels in metres.
    """
    steps = []
    for window in QUICK.windows(band.dataset):
        heights, valid = band.read(window)
        both = valid[:, 1:] & valid[:, :-1]
        steps.append(np.abs(np.diff(np.where(valid, heights, np.float32(0)), axis=1))[both])
    found = np.concatenate(steps)
    usual = found[found <= np.percentile(found, USUAL)] if found.size else np.zeros(1)
    return float(usual.mean(dtype=np.float64)) / ground


def storage(dsm: DsmFacts) -> Said:
    """Note heights that are packed into integers or blurred by compression."""
    dataset, index = dsm.band.dataset, dsm.band.band - 1
    if is_lossy(dataset):
        yield "note", f"{dataset.compression.value} compression may blur heights"
    scale, offset = dataset.scales[index], dataset.offsets[index]
    if (scale, offset) != (1.0, 0.0):
        yield "note", f"heights are packed and read as value x {scale:g} + {offset:g}"


RULES: tuple[Callable[[DsmFacts], Said], ...] = (
    no_heights,
    undeclared_nodata,
    input_range,
    unit,
    storage,
)
