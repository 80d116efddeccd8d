"""The canvas of the synthetic town and its brushes: boxes, buildings, trees and cars."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from mfnet.synthetic.light import Floats, rough_noise, smooth_noise

Paint = Sequence[float] | Floats  # reflectance of red, green and blue
Where = tuple[slice, slice]  # rows and columns

EVERYWHERE: Where = (slice(None), slice(None))
GROUND, BUILDING, TREE, LOW_VEGETATION, CAR, WATER = range(6)
CAR_COLOURS = ((0.52, 0.06, 0.06), (0.08, 0.17, 0.42), (0.72, 0.50, 0.08))


class Box(NamedTuple):
    """A rectangle in the street frame, in metres."""

    u: float
    v: float
    length: float
    width: float
    angle: float = 0.0  # of the long side, radians from u towards v

    def grown(self, metres: float) -> Box:
        """Return the box with a margin on every side."""
        return self._replace(length=self.length + 2 * metres, width=self.width + 2 * metres)

    def part(self, along: float, across: float, length: float = 0, width: float = 0) -> Box:
        """Return a box of another size whose centre is moved along and across this one."""
        u, v = _turn(along, across, self.angle)
        return Box(self.u + u, self.v + v, length, width, self.angle)

    def turned(self) -> Box:
        """Return the same rectangle in a frame turned by 90 degrees."""
        return Box(self.u, self.v, self.width, self.length, self.angle + math.pi / 2)


class Canvas:
    """A scene while it is drawn; at first a meadow on rolling ground.

    Places are given in the street frame (u, v), in metres. It is turned against the raster, and
    its lines of constant u are waves.

    Args:
        size: Rows and columns.
        pixel: Pixel size in metres.
        rng: Source of everything random.
    """

    def __init__(self, size: tuple[int, int], pixel: float, rng: np.random.Generator) -> None:
        self.pixel, self.rng = pixel, rng
        self._angle = math.radians(rng.uniform(-24, 24))
        self._wave = rng.uniform(3, 6), rng.uniform(32, 50), rng.uniform(0, 6.3)
        y, x = ((np.arange(count) + 0.5) * pixel for count in size)
        straight, self.v = _turn(x[None], y[:, None], -self._angle)
        self.u = straight + self._shift(self.v)
        fall = 0.01 * (rng.choice((-1, 1)) * self.u + rng.uniform(-1, 1) * self.v)
        rough = rough_noise(rng, size, 130 / pixel) + 0.03 * smooth_noise(rng, size, 0.8 / pixel)
        self.ground = (112 + fall + rough).astype(np.float32)
        self.surface = self.ground.copy()  # with everything that stands on the ground
        self.label = np.full(size, LOW_VEGETATION, np.uint8)
        self.grain = smooth_noise(rng, size, 1.3)
        self.albedo = np.zeros((3, *size), np.float32)
        blades = 0.055 * self.grain + 0.05 * smooth_noise(rng, size, 1 / pixel)
        self.blend(np.ones(size), (0.225, 0.325, 0.115), blades)
        dry = np.clip(0.5 + 0.33 * rough_noise(rng, size, 18 / pixel), 0, 1)
        self.blend(dry, (0.375, 0.385, 0.185), blades)

    def _shift(self, v: Floats) -> Floats:
        metres, length, phase = self._wave
        return np.asarray(metres * np.sin(v / length + phase))

    def patch(self, box: Box) -> tuple[Where, Floats, Floats, Floats]:
        """Return where a box is, positions along and across it in metres, and its coverage."""
        ends = [box.part(i * box.length, j * box.width) for i in (-0.5, 0.5) for j in (-0.5, 0.5)]
        u, v = np.array([(end.u, end.v) for end in ends]).T
        x, y = _turn(u - self._shift(v), v, self._angle)
        rows, columns = (
            slice(max(0, int(at.min() / self.pixel) - 4), max(0, int(at.max() / self.pixel) + 4))
            for at in (y, x)
        )
        where = rows, columns
        along, across = _turn(self.u[where] - box.u, self.v[where] - box.v, -box.angle)
        outside = np.maximum(np.abs(along) - box.length / 2, np.abs(across) - box.width / 2)
        return where, along, across, self.soft(outside)

    def soft(self, outside: Floats) -> Floats:
        """Turn a signed distance to an edge in metres into coverage, one pixel wide."""
        return np.asarray(np.clip(0.5 - outside / self.pixel, 0, 1))

    def blend(
        self, cover: Floats, paint: Paint, texture: Floats | float = 0, where: Where = EVERYWHERE
    ) -> None:
        """Paint over a part of the scene, with a brightness of 1 + `texture`."""
        for band, value in zip(self.albedo, paint, strict=True):
            band[where] += cover * (value * (1 + texture) - band[where])

    def free(self, box: Box) -> bool:
        """Tell if the box is in the scene and no building, car or water is in it."""
        where, _, _, cover = self.patch(box)
        found = self.label[where][cover > 0.5]
        return bool(found.size) and not bool(np.isin(found, (BUILDING, CAR, WATER)).any())

    def add(
        self,
        box: Box,
        paint: Paint,
        label: int | None = None,
        *,
        height: float = 0,
        on_roof: bool = False,
        grain: float = 0.05,
    ) -> None:
        """Draw a box on roofs, or on all but roofs; without `label` the labels stay."""
        where, _, _, cover = self.patch(box)
        cover = cover * ((self.label[where] == BUILDING) == on_roof)
        self.blend(cover, paint, grain * self.grain[where], where)
        self.surface[where][cover > 0.5] += np.float32(height)
        if label is not None:
            self.label[where][cover > 0.5] = label

    def add_building(self, box: Box, eave: float, rise: float, paint: Paint) -> None:
        """Draw a building.

        Args:
            box: Its outline; a ridge runs along it.
            eave: Height of the walls in metres.
            rise: Metres from eave to ridge; 0 makes a flat roof with a parapet.
            paint: Colour of the roof.
        """
        where, along, across, cover = self.patch(box)
        inside, side, half = cover > 0.5, np.abs(across), box.width / 2
        if not inside.any():
            return
        paint = np.asarray(paint)
        base = float(self.ground[where][inside].mean()) + eave
        if rise:
            roof: Floats = base + rise * (1 - side / half)
            courses = np.sin(side * (2 * math.pi / 1.1))  # rows of tiles
            self.blend(cover, paint, 0.05 * self.grain[where] + 0.03 * courses, where)
            self.blend(0.45 * cover * self.soft(side - 0.16), 1.35 * paint, 0, where)
            gutter = self.soft(half - 0.3 - side)
            self.blend(0.5 * cover * gutter, (0.30, 0.28, 0.27), 0, where)
        else:
            parapet = np.minimum(box.length / 2 - np.abs(along), half - side) < 0.45
            roof = base + 0.5 * parapet
            self.blend(cover, paint, 0.045 * self.grain[where], where)
            seams = self.soft(np.abs((along / 4) % 1 - 0.5) * 4 - 0.1)
            self.blend(0.35 * cover * seams, 0.8 * paint, 0, where)
            self.blend(0.8 * cover * parapet, 1.18 * paint, 0, where)
        self.surface[where][inside] = np.maximum(self.surface[where], roof)[inside]
        self.label[where][inside] = BUILDING

    def add_tree(self, place: Box, radii: tuple[float, float]) -> None:
        """Draw a lobed crown with a radius between two, in metres, if its trunk has room."""
        rng, radius = self.rng, self.rng.uniform(*radii)
        if not self.free(place.part(0, 0, 1.2 * radius, 1.2 * radius)):
            return
        where, along, across, _ = self.patch(place.part(0, 0, 2.5 * radius, 2.5 * radius))
        direction = np.arctan2(across, along)
        reach = np.full_like(direction, radius)
        for lobes in (3, 5, 8):
            swing = radius * rng.uniform(0.01, 0.06)
            reach += swing * np.sin(lobes * direction + rng.uniform(0, 6.3))
        clumps = smooth_noise(rng, along.shape, 0.75 / self.pixel)
        distance = np.hypot(along, across) / reach + 0.06 * clumps
        dome = np.sqrt(np.clip(1 - distance**2, 0, 1))
        height = min(15, 2 + radius * rng.uniform(2, 3))
        crown = float(np.median(self.ground[where])) + height * (0.42 + 0.58 * dome)
        crown += 0.26 * math.sqrt(radius) * clumps * np.minimum(2 * dome, 1)
        cover = self.soft((distance - 1) * radius) * (crown > self.surface[where])
        leaves = rng.uniform(0.85, 1.2) * rng.uniform((0.135, 0.235, 0.075), (0.205, 0.275, 0.095))
        texture = 0.13 * clumps + 0.07 * self.grain[where] + 0.30 * (dome - 0.6)
        self.blend(cover, leaves, texture, where)
        self.surface[where][cover > 0.5] = crown[cover > 0.5]
        self.label[where][cover > 0.5] = TREE

    def add_car(self, place: Box) -> None:
        """Draw a car that points along a box, if nothing stands there."""
        rng = self.rng
        length = 4.4 * rng.uniform(0.92, 1.06)
        box = Box(place.u, place.v, length, 1.8, place.angle + rng.normal(0, 0.02))
        if not self.free(box.grown(0.15)):
            return
        where, along, across, cover = self.patch(box)
        grey = np.full(3, rng.choice((0.85, 0.63, 0.24, 0.08)))
        paint = rng.choice(CAR_COLOURS) if rng.random() < 0.2 else grey
        narrow = cover * self.soft(np.abs(across) - 0.72)
        cabin = self.soft(np.abs(along + 0.35) - 0.27 * length)
        self.blend(cover, paint, 0, where)
        self.blend(narrow * cabin, (0.07, 0.08, 0.10), 0, where)  # windows
        self.blend(narrow * self.soft(np.abs(along + 0.45) - 0.17 * length), 1.06 * paint, 0, where)
        self.surface[where] += (cover > 0.5) * np.where(cabin > 0.5, 1.5, 1.0)
        self.label[where][cover > 0.5] = CAR


def _turn(x: Any, y: Any, angle: float) -> tuple[Any, Any]:
    cos, sin = math.cos(angle), math.sin(angle)
    return cos * x - sin * y, sin * x + cos * y
