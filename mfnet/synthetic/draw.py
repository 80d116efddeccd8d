"""Brushes of the synthetic town: one object at a time onto reflectance, heights and labels.

A brush knows shapes, not towns: where things stand is decided by the caller.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mfnet.synthetic.light import Floats, smooth_noise
from mfnet.synthetic.plan import Box

Paint = tuple[float, float, float]  # reflectance of red, green, blue
Real = npt.NDArray[np.floating[Any]] | float

GROUND, BUILDING, TREE, LOW_VEGETATION, CAR, WATER = range(6)


class Patch(NamedTuple):
    """The pixels under an object: where, and their position in its frame in metres."""

    rows: slice
    columns: slice
    along: Floats
    across: Floats

    @property
    def where(self) -> tuple[slice, slice]:
        """Index of the patch in a (row, column) array."""
        return self.rows, self.columns


@dataclass
class Canvas:
    """The scene while it is drawn."""

    albedo: Floats  # (3, row, column) reflectance
    surface: Floats  # (row, column) metres, with everything that stands on the ground
    ground: Floats  # (row, column) metres
    label: npt.NDArray[np.uint8]
    taken: npt.NDArray[np.bool_]  # no building, car or trunk may go here
    pixel: float  # metres
    rng: np.random.Generator
    grain: Floats  # texture that any brush may use, deviation about 1

    def patch(self, box: Box) -> Patch | None:
        """Pixels of the upright hull of a box, None outside the scene."""
        cos, sin = abs(math.cos(box.angle)), abs(math.sin(box.angle))
        reach_x = (box.length * cos + box.width * sin) / 2 + self.pixel
        reach_y = (box.length * sin + box.width * cos) / 2 + self.pixel
        ranges = []
        for centre, reach, limit in zip(
            (box.y, box.x), (reach_y, reach_x), self.label.shape, strict=True
        ):
            start = max(0, math.floor((centre - reach) / self.pixel))
            stop = min(limit, math.ceil((centre + reach) / self.pixel) + 1)
            if start >= stop:
                return None
            ranges.append((start, stop))
        (top, bottom), (left, right) = ranges
        y = (np.arange(top, bottom, dtype=np.float32)[:, None] + 0.5) * self.pixel - box.y
        x = (np.arange(left, right, dtype=np.float32)[None, :] + 0.5) * self.pixel - box.x
        cosine, sine = np.float32(math.cos(box.angle)), np.float32(math.sin(box.angle))
        return Patch(
            slice(top, bottom),
            slice(left, right),
            (cosine * x + sine * y).astype(np.float32),
            (cosine * y - sine * x).astype(np.float32),
        )

    def coverage(self, patch: Patch, box: Box) -> Floats:
        """Share of each pixel inside the box."""
        return self.soft(
            np.maximum(np.abs(patch.along) - box.length / 2, np.abs(patch.across) - box.width / 2)
        )

    def soft(self, metres_outside: Real) -> Floats:
        """Coverage from a signed distance to an edge, one pixel wide."""
        edge = np.float32(0.5) - metres_outside / np.float32(self.pixel)
        return np.asarray(np.clip(edge, 0, 1), np.float32)

    def blend(
        self, where: tuple[slice, slice], cover: Floats, paint: Paint, texture: Real = 0.0
    ) -> None:
        """Lay paint, its brightness scaled by 1 + texture, over a part of the scene."""
        for band, value in enumerate(paint):
            under = self.albedo[band][where]
            under += cover * (np.float32(value) * (1 + np.asarray(texture, np.float32)) - under)

    def free(self, box: Box) -> bool:
        """Nothing stands in the box, and at least a part of it is in the scene."""
        patch = self.patch(box)
        return patch is not None and not bool(
            (self.taken[patch.where] & (self.coverage(patch, box) > 0.5)).any()
        )

    def take(self, box: Box) -> None:
        """Keep the box free of further objects."""
        patch = self.patch(box)
        if patch is not None:
            self.taken[patch.where] |= self.coverage(patch, box) > 0.5

    def flat(self, box: Box, paint: Paint, label: int | None = None, grain: float = 0.05) -> None:
        """A rectangle painted on the ground, beside buildings: a path, a lot, a mark."""
        patch = self.patch(box)
        if patch is None:
            return
        cover = self.coverage(patch, box) * (self.label[patch.where] != BUILDING)
        self.blend(patch.where, cover, paint, np.float32(grain) * self.grain[patch.where])
        if label is not None:
            self.label[patch.where][cover > 0.5] = label


def draw_building(canvas: Canvas, box: Box, eave: float, rise: float, paint: Paint) -> None:
    """A building; `rise` above 0 makes a gabled roof with its ridge along the box.

    Args:
        canvas: The scene.
        box: Outline of the roof.
        eave: Height of the walls in metres above the ground under the middle.
        rise: Metres from eave to ridge, 0 for a flat roof.
        paint: Roof colour.
    """
    patch = canvas.patch(box)
    if patch is None:
        return
    cover = canvas.coverage(patch, box)
    inside = cover > 0.5
    if not inside.any():
        return
    base = float(canvas.ground[patch.where][inside].mean())
    grain = canvas.grain[patch.where]
    half = np.float32(box.width / 2)
    side = np.abs(patch.across)
    if rise > 0:
        roof = np.float32(base + eave) + np.float32(rise) * (1 - side / half)
        rows = np.sin(side * np.float32(2 * math.pi / 1.1))  # courses of tiles
        canvas.blend(patch.where, cover, paint, 0.05 * grain + 0.03 * rows)
        bright = canvas.soft(side - np.float32(0.16)) * cover
        canvas.blend(patch.where, bright * 0.45, _shade(paint, 1.35))
        gutter = canvas.soft(half - np.float32(0.3) - side) * cover
        canvas.blend(patch.where, gutter * 0.5, (0.30, 0.28, 0.27))
    else:
        edge = np.minimum(box.length / 2 - np.abs(patch.along), half - side)
        parapet = edge < 0.45
        roof = np.float32(base + eave) + np.where(parapet, np.float32(0.5), np.float32(0))
        canvas.blend(patch.where, cover, paint, 0.045 * grain)
        seams = np.abs((patch.along / 4.0) % 1 - 0.5) * 4.0
        canvas.blend(patch.where, canvas.soft(seams - 0.1) * cover * 0.35, _shade(paint, 0.8))
        canvas.blend(patch.where, cover * parapet * 0.8, _shade(paint, 1.18))
    surface = canvas.surface[patch.where]
    surface[inside] = np.maximum(surface, roof)[inside]
    canvas.label[patch.where][inside] = BUILDING
    canvas.taken[patch.where] |= inside


def draw_fitting(canvas: Canvas, box: Box, height: float, paint: Paint) -> None:
    """Something small on a roof: a chimney, a ventilator, a row of solar panels."""
    patch = canvas.patch(box)
    if patch is None:
        return
    cover = canvas.coverage(patch, box) * (canvas.label[patch.where] == BUILDING)
    canvas.blend(patch.where, cover, paint)
    canvas.surface[patch.where] += np.float32(height) * (cover > 0.5)


def draw_tree(canvas: Canvas, x: float, y: float, radius: float, height: float) -> None:
    """A rounded, lobed crown that covers whatever is lower.

    Args:
        canvas: The scene.
        x: Metres.
        y: Metres.
        radius: Of the crown, metres.
        height: Of the top above the ground at the trunk, metres.
    """
    rng = canvas.rng
    patch = canvas.patch(Box(x, y, 0.0, 2.5 * radius, 2.5 * radius))
    if patch is None:
        return
    rows, columns = canvas.label.shape
    trunk = (
        min(max(int(y / canvas.pixel), 0), rows - 1),
        min(max(int(x / canvas.pixel), 0), columns - 1),
    )
    base = float(canvas.ground[trunk])
    angle = np.arctan2(patch.across, patch.along)
    reach = np.ones_like(angle)
    for lobes in (3, 5, 8):
        swing = float(rng.uniform(0.01, 0.06))
        reach += np.float32(swing) * np.sin(lobes * angle + np.float32(rng.uniform(0, 6.3)))
    clumps = smooth_noise(rng, angle.shape, 0.75 / canvas.pixel)
    r = np.hypot(patch.along, patch.across) / (np.float32(radius) * reach)
    r = r + np.float32(0.06) * clumps
    dome = np.sqrt(np.clip(1 - r * r, 0, 1))
    crown = np.float32(base + 0.42 * height) + np.float32(0.58 * height) * dome
    crown += np.float32(0.26) * clumps * np.sqrt(np.float32(radius)) * np.minimum(dome * 2, 1)
    surface = canvas.surface[patch.where]
    cover = canvas.soft((r - 1) * np.float32(radius)) * (crown > surface)
    tone = float(rng.uniform(-1, 1))
    paint = (0.170 + 0.035 * tone, 0.255 + 0.020 * tone, 0.085 + 0.012 * tone)
    texture = 0.13 * clumps + 0.07 * canvas.grain[patch.where] + 0.30 * (dome - 0.6)
    canvas.blend(patch.where, cover, _shade(paint, float(rng.uniform(0.85, 1.2))), texture)
    inside = cover > 0.5
    surface[inside] = crown[inside]
    canvas.label[patch.where][inside] = TREE


def draw_car(canvas: Canvas, box: Box, paint: Paint) -> None:
    """A car of 1.5 m: bonnet, glass, roof, glass, boot; the box points forward."""
    patch = canvas.patch(box)
    if patch is None:
        return
    corner = np.hypot(
        np.maximum(np.abs(patch.along) - box.length / 2 + 0.5, 0),
        np.maximum(np.abs(patch.across) - box.width / 2 + 0.5, 0),
    )
    cover = canvas.soft(corner - np.float32(0.5))
    inside = cover > 0.5
    cabin = canvas.soft(np.abs(patch.along + 0.35) - np.float32(0.27 * box.length))
    roof = canvas.soft(np.abs(patch.along + 0.45) - np.float32(0.17 * box.length))
    narrow = canvas.soft(np.abs(patch.across) - np.float32(box.width / 2 - 0.18))
    canvas.blend(patch.where, cover, paint)
    canvas.blend(patch.where, cover * cabin * narrow, (0.07, 0.08, 0.10))
    canvas.blend(patch.where, cover * roof * narrow, _shade(paint, 1.06))
    lift = np.where(cabin > 0.5, np.float32(1.5), np.float32(1.0))
    canvas.surface[patch.where][inside] += lift[inside]
    canvas.label[patch.where][inside] = CAR
    canvas.taken[patch.where] |= inside


def _shade(paint: Paint, factor: float) -> Paint:
    return paint[0] * factor, paint[1] * factor, paint[2] * factor
