"""Streets, a river and bridges of the synthetic town, and the blocks between them."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from mfnet.synthetic.blocks import BLOCKS, MARK, PATH, PAVING, plant_riverside
from mfnet.synthetic.canvas import GROUND, WATER, Box, Canvas
from mfnet.synthetic.light import Floats, rough_noise

PAVEMENT = 2.0  # metres beside a carriageway


class Street(NamedTuple):
    """A line of constant u or v."""

    at: float  # metres, its u or v
    half: float  # metres, half the carriageway
    wide: bool  # has lane marks, trees, cars on both sides, and a bridge


def paint_town(canvas: Canvas) -> None:
    """Draw a whole town."""
    rng = canvas.rng
    off_centre = 12 + rng.uniform(0.05, 0.2) * np.ptp(canvas.u)
    river = float(canvas.u.mean() + rng.choice((-1, 1)) * off_centre)
    first_v = float(canvas.v.mean() - rng.uniform(0, 40))
    streets_u = _plan_streets(rng, [river - 22, river + 22], canvas.u, (58, 76))
    streets_v = _plan_streets(rng, [first_v], canvas.v, (44, 60))
    _dig_river(canvas, river)
    _pave_streets(canvas, river, streets_u, streets_v)
    kind = int(rng.integers(len(BLOCKS)))
    for left, right in pairwise(streets_u):
        for top, bottom in pairwise(streets_v):
            u0, u1 = left.at + left.half, right.at - right.half
            v0, v1 = top.at + top.half, bottom.at - bottom.half
            block = Box((u0 + u1) / 2, (v0 + v1) / 2, u1 - u0, v1 - v0).grown(-PAVEMENT)
            if wet := left.at < river < right.at:
                plant_riverside(canvas, block)
            else:
                BLOCKS[kind % len(BLOCKS)](canvas, block)
                kind += 1
            street_u = Box(left.at, block.v, v1 - v0, 2 * left.half, math.pi / 2)
            _line_street(canvas, street_u, left.wide)
            if top.wide or not wet:
                street_v = Box(block.u, top.at, u1 - u0, 2 * top.half)
                _line_street(canvas, street_v, top.wide, bridge=wet)


def _plan_streets(
    rng: np.random.Generator, places: list[float], across: Floats, gaps: tuple[float, float]
) -> list[Street]:
    """Add parallel streets on both sides of `places`, to beyond all of the scene."""
    while places[0] > across.min() - 30:
        places.insert(0, places[0] - rng.uniform(*gaps))
    while places[-1] < across.max() + 30:
        places.append(places[-1] + rng.uniform(*gaps))
    odd = rng.integers(2)
    wide = [index % 2 == odd for index in range(len(places))]
    return [Street(at, 5.0 if w else 3.2, w) for at, w in zip(places, wide, strict=True)]


def _dig_river(canvas: Canvas, middle: float) -> None:
    """Draw banks with a path, and water 2.2 m below the lowest ground near it."""
    rng = canvas.rng
    bends = np.sin(canvas.v / rng.uniform(18, 27) + rng.uniform(0, 6.3))
    course = middle + rng.uniform(2, 5) * bends
    outside = np.abs(canvas.u - course) - rng.uniform(6.5, 8.5)  # metres from the water's edge
    near = outside < 6
    if not near.any():
        return
    water = canvas.ground[near].min() - np.float32(2.2)
    bank = water + (canvas.ground - water) * np.clip(outside / 6, 0, 1) ** 1.3
    canvas.surface[near] = bank[near]
    path = canvas.soft(np.abs(outside - 7.5) - 1.2)
    canvas.blend(path, PATH, 0.07 * canvas.grain)
    canvas.label[path > 0.5] = GROUND
    canvas.blend(canvas.soft(outside - 1.1 - 0.3 * canvas.grain), (0.40, 0.37, 0.27))  # mud
    ripples = 0.035 * rough_noise(rng, outside.shape, 5 / canvas.pixel)
    wet = canvas.soft(outside)
    canvas.blend(wet, (0.20, 0.285, 0.28), ripples - 0.3 * np.clip(-outside / 6, 0, 1))
    canvas.label[wet > 0.5] = WATER


def _pave_streets(
    canvas: Canvas, river: float, streets_u: list[Street], streets_v: list[Street]
) -> None:
    """Draw all pavements and carriageways; bridges keep the height of the ground."""
    u, v, rng = canvas.u, canvas.v, canvas.rng
    bridges = [street for street in streets_v if street.wide]
    beside_u, beside_v = _distance(streets_u, u), _distance(streets_v, v)
    beside_v = np.where(np.abs(u - river) < 22, _distance(bridges, v), beside_v)
    edge = np.minimum(beside_u, beside_v)
    corner = (edge > 0) & (beside_u < 4) & (beside_v < 4)  # rounded, with a radius of 4 m
    kerb = np.where(corner, 4 - np.hypot(4 - beside_u, 4 - beside_v), edge)
    slabs = 0.04 * rough_noise(rng, u.shape, 3 / canvas.pixel)
    canvas.blend(canvas.soft(edge - PAVEMENT), PAVING, slabs + 0.05 * canvas.grain)
    canvas.blend(canvas.soft(kerb - 0.2), (0.58, 0.57, 0.55))
    worn = 0.05 * rough_noise(rng, u.shape, 14 / canvas.pixel)
    canvas.blend(canvas.soft(kerb), (0.285, 0.285, 0.295), worn + 0.05 * canvas.grain)
    paved = edge < PAVEMENT
    rail = paved & (edge > PAVEMENT - 0.6) & (canvas.label == WATER)
    canvas.blend(rail, (0.62, 0.60, 0.56))
    canvas.surface[paved] = canvas.ground[paved]
    canvas.label[paved] = GROUND
    canvas.surface[kerb < 0] -= np.float32(0.12)
    canvas.ground = canvas.surface.copy()
    canvas.surface[rail] += np.float32(0.9)


def _distance(streets: list[Street], at: Floats) -> Floats:
    """Return the distance from the nearest kerb in metres, negative on a carriageway."""
    return np.asarray(np.min([np.abs(at - s.at) - s.half for s in streets], axis=0))


def _line_street(canvas: Canvas, street: Box, wide: bool, bridge: bool = False) -> None:
    """Draw marks, cars and trees on a street between two crossings."""
    rng, length, half = canvas.rng, street.length, street.width / 2
    if wide:
        for along in np.arange(8, length - 9, 5) - length / 2:
            canvas.add(street.part(along, 0, 2.8, 0.18), MARK)
        for end in (4.5 - length / 2, length / 2 - 4.5):
            for across in np.arange(0.5 - half, half, 1):
                canvas.add(street.part(end, across, 2.6, 0.5), MARK)
    parked = () if bridge else (half - 1.15, 1.15 - half) if wide else (half - 1.15,)
    for lane, share in ((1.5, 0.07), (-1.5, 0.07), *((at, 0.5) for at in parked)):
        along = rng.uniform(6, 10) - length / 2
        while along < length / 2 - 6:
            if rng.random() < share:
                # Traffic keeps to the right, where `across` is positive.
                car = street.part(along, lane)
                canvas.add_car(car if lane > 0 else car.turned().turned())
            along += rng.uniform(5.6, 7)
    if wide and not bridge:
        for across in (-half - 1.3, half + 1.3):
            for along in np.arange(6, length - 5, rng.uniform(8.5, 11)) - length / 2:
                if rng.random() < 0.8:
                    canvas.add_tree(street.part(along, across), (1.9, 2.9))
