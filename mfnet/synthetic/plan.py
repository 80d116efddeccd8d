"""The plan of a synthetic town: bent streets, the blocks between them, a river. Draws nothing.

Two frames, both in metres: (x, y) of the raster, x to the right and y down; and the bent street
frame (u, v), in which every street is a line of constant u or constant v.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from mfnet.synthetic.light import Floats

PAVEMENT = 2.0  # metres beside a carriageway
CORRIDOR = 44.0  # metres between the streets on either side of the river


class Box(NamedTuple):
    """An oriented rectangle, metres and radians in (x, y)."""

    x: float
    y: float
    angle: float  # of the long axis
    length: float
    width: float

    def grown(self, metres: float) -> Box:
        """The same with a margin on every side."""
        return self._replace(length=self.length + 2 * metres, width=self.width + 2 * metres)

    def moved(self, along: float, across: float) -> Box:
        """Shifted in its own frame."""
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        return self._replace(
            x=self.x + along * cos - across * sin, y=self.y + along * sin + across * cos
        )


@dataclass(frozen=True)
class Street:
    """A line of constant u or v."""

    at: float  # metres, its u or v
    half: float  # metres, half the carriageway
    bridge: bool = True  # crosses the river where it meets it

    @property
    def main(self) -> bool:
        """Wide enough for lane marks and parked cars."""
        return self.half > 4


@dataclass(frozen=True)
class Block:
    """A rectangle in (u, v), in metres, inside the pavements of four streets."""

    u: tuple[float, float]
    v: tuple[float, float]
    river: bool = False

    @property
    def size(self) -> tuple[float, float]:
        """Extent along u and v, metres."""
        return self.u[1] - self.u[0], self.v[1] - self.v[0]


@dataclass(frozen=True)
class Reach:
    """A street between two crossings."""

    street: Street
    across: bool  # a line of constant v, running along u
    span: tuple[float, float]  # metres along the street
    bridge: bool = False

    def place(self, sideways: float, along: float) -> tuple[float, float]:
        """(u, v) of a place beside the axis."""
        at = self.street.at + sideways
        return (along, at) if self.across else (at, along)


@dataclass(frozen=True)
class Bend:
    """One sine by which a street family leaves the straight line."""

    metres: float
    wavelength: float  # metres
    phase: float

    def at(self, along: Floats) -> Floats:
        """Sideways shift in metres at a distance along the street."""
        angle = along * np.float32(2 * math.pi / self.wavelength) + np.float32(self.phase)
        return np.asarray(np.float32(self.metres) * np.sin(angle), np.float32)


@dataclass(frozen=True)
class TownPlan:
    """Streets and river of one town."""

    angle: float  # radians, u against x
    bend_u: Bend
    bend_v: Bend
    streets_u: tuple[Street, ...]  # lines of constant u, ascending
    streets_v: tuple[Street, ...]
    river: tuple[Bend, float, float] | None  # course about its u, that u, half width in metres

    def uv_from_xy(self, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        """Street frame of raster metres."""
        cos, sin = np.float32(math.cos(self.angle)), np.float32(math.sin(self.angle))
        straight_u, straight_v = cos * x + sin * y, cos * y - sin * x
        return straight_u + self.bend_u.at(straight_v), straight_v + self.bend_v.at(straight_u)

    def xy_from_uv(self, u: float, v: float) -> tuple[float, float]:
        """Raster metres of one point of the street frame, by fixed-point iteration."""
        straight_u, straight_v = np.float32(u), np.float32(v)
        for _ in range(8):
            straight_u = np.float32(u - self.bend_u.at(np.asarray(straight_v)))
            straight_v = np.float32(v - self.bend_v.at(np.asarray(straight_u)))
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        return (
            float(cos * straight_u - sin * straight_v),
            float(sin * straight_u + cos * straight_v),
        )

    def heading(self, u: float, v: float, *, along_v: bool = False) -> float:
        """Direction of growing u (or v) at a point, radians in (x, y); not quite square."""
        du, dv = (0.0, 0.5) if along_v else (0.5, 0.0)
        x0, y0 = self.xy_from_uv(u - du, v - dv)
        x1, y1 = self.xy_from_uv(u + du, v + dv)
        return math.atan2(y1 - y0, x1 - x0)

    def river_distance(self, u: Floats, v: Floats) -> Floats | None:
        """Metres outside the water's edge, negative in the water; None without a river."""
        if self.river is None:
            return None
        course, centre, half = self.river
        off = np.abs(u - np.float32(centre) - course.at(v))
        return np.asarray(off - np.float32(half), np.float32)

    def blocks(self) -> list[Block]:
        """Every block between two neighbouring streets of each family."""
        found = []
        for left, right in pairwise(self.streets_u):
            for top, bottom in pairwise(self.streets_v):
                wet = self.river is not None and left.at < self.river[1] < right.at
                found.append(
                    Block(
                        (left.at + left.half + PAVEMENT, right.at - right.half - PAVEMENT),
                        (top.at + top.half + PAVEMENT, bottom.at - bottom.half - PAVEMENT),
                        wet,
                    )
                )
        return found

    def reaches(self) -> list[Reach]:
        """Every street between its crossings; none where it would end in the river."""
        found = []
        for across in (False, True):
            own, other = self.streets_u, self.streets_v
            if across:
                own, other = other, own
            for street in own:
                for near, far in pairwise(other):
                    wet = across and self.river is not None and near.at < self.river[1] < far.at
                    if street.bridge or not wet:
                        span = near.at + near.half, far.at - far.half
                        found.append(Reach(street, across, span, wet))
        return found


def plan_town(rng: np.random.Generator, extent: tuple[float, float]) -> TownPlan:
    """A plan that covers `extent`, metres along y and x, with streets to spare all round."""
    height, width = extent
    angle = math.radians(float(rng.uniform(-24, 24)))
    bends = [
        Bend(float(rng.uniform(3, 7)), float(rng.uniform(200, 320)), float(rng.uniform(0, 6.3)))
        for _ in range(2)
    ]
    corners = np.array([(0, 0), (width, 0), (0, height), (width, height)], np.float32)
    cos, sin = math.cos(angle), math.sin(angle)
    us = cos * corners[:, 0] + sin * corners[:, 1]
    vs = cos * corners[:, 1] - sin * corners[:, 0]
    centre = (float(us.mean()), float(vs.mean()))
    river = None
    middle = centre[0] + float(rng.uniform(-25, 25))
    if rng.random() < 0.85:
        offset = float(rng.choice((-1.0, 1.0))) * float(rng.uniform(0.12, 0.3)) * float(np.ptp(us))
        middle = centre[0] + offset
        course = Bend(
            float(rng.uniform(3, 6)), float(rng.uniform(110, 170)), float(rng.uniform(0, 6.3))
        )
        river = (course, middle, float(rng.uniform(6.5, 8.5)))
    gap = CORRIDOR if river is not None else float(rng.uniform(58, 72))
    low, high = float(us.min()) - 30, float(us.max()) + 30
    streets_u = _family(rng, (low, high), middle - gap / 2, middle + gap / 2, (58, 76))
    first = centre[1] + float(rng.uniform(-40, 0))
    low, high = float(vs.min()) - 30, float(vs.max()) + 30
    second = first + float(rng.uniform(46, 58))
    streets_v = _family(rng, (low, high), first, second, (44, 60))
    return TownPlan(angle, bends[0], bends[1], streets_u, streets_v, river)


def _family(
    rng: np.random.Generator,
    reach: tuple[float, float],
    first: float,
    second: float,
    gaps: tuple[float, float],
) -> tuple[Street, ...]:
    """Parallel streets outwards from two given ones, past both ends of `reach`."""
    places = [first, second]
    while places[0] > reach[0]:
        places.insert(0, places[0] - float(rng.uniform(*gaps)))
    while places[-1] < reach[1]:
        places.append(places[-1] + float(rng.uniform(*gaps)))
    odd = int(rng.integers(2))
    return tuple(
        Street(at, 5.0 if index % 2 == odd else 3.2, bridge=index % 2 == odd)
        for index, at in enumerate(places)
    )
