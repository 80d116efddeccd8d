"""Things a synthetic town is furnished with: cars, trees, hedges, ponds, roof machines.

Each goes where it is told, unless something stands there. Knows streets and places, no blocks.
"""

from __future__ import annotations

import math

import numpy as np

from mfnet.synthetic.draw import (
    GROUND,
    LOW_VEGETATION,
    WATER,
    Canvas,
    Paint,
    draw_car,
    draw_fitting,
    draw_tree,
)
from mfnet.synthetic.plan import Box, Reach, TownPlan

CARS: tuple[Paint, ...] = (
    (0.85, 0.85, 0.86),
    (0.62, 0.64, 0.66),
    (0.07, 0.07, 0.08),
    (0.22, 0.23, 0.25),
    (0.52, 0.06, 0.06),
    (0.08, 0.17, 0.42),
    (0.78, 0.76, 0.70),
    (0.72, 0.50, 0.08),
)
CAR_SHARES = (0.22, 0.22, 0.16, 0.16, 0.08, 0.08, 0.05, 0.03)
PAVING: Paint = (0.47, 0.44, 0.41)
ASPHALT: Paint = (0.285, 0.285, 0.295)
MARK: Paint = (0.78, 0.78, 0.76)


def box_at(plan: TownPlan, u: float, v: float, length: float, width: float, turn: float) -> Box:
    """A box at a place of the street frame, its long axis turned from u by `turn` radians."""
    x, y = plan.xy_from_uv(u, v)
    along_v = abs(math.sin(turn)) > 0.5
    angle = plan.heading(u, v, along_v=along_v) - (math.pi / 2 if along_v else 0.0)
    return Box(x, y, angle + turn, length, width)


def park_along(canvas: Canvas, plan: TownPlan, reach: Reach) -> None:
    """Parked and moving cars between two crossings."""
    rng = canvas.rng
    half = reach.street.half
    lanes = ((half - 1.15, 0.5), (1.15 - half, 0.5), (1.5, 0.07), (-1.5, 0.07))
    for place, share in lanes if reach.street.main else lanes[:1]:
        if reach.bridge and abs(place) > 2:
            continue
        along = reach.span[0] + float(rng.uniform(6, 10))
        while along < reach.span[1] - 6:
            if rng.random() < share:
                # Traffic keeps to the right; y points down, so right of +u is +v.
                turn = 0.0 if place > 0 else math.pi
                turn += 0.0 if reach.across else -math.pi / 2
                park_car(canvas, box_at(plan, *reach.place(place, along), 4.4, 1.8, turn))
            along += float(rng.uniform(5.6, 7.0))


def trees_along(canvas: Canvas, plan: TownPlan, reach: Reach) -> None:
    """Two rows of trees on the pavements between two crossings."""
    for side in (-1, 1):
        along = reach.span[0] + 6
        while along < reach.span[1] - 5:
            if canvas.rng.random() < 0.8:
                place = reach.place(side * (reach.street.half + 1.3), along)
                plant_tree(canvas, plan, *place, (1.9, 2.9))
            along += float(canvas.rng.uniform(8.5, 11))


def draw_pond(canvas: Canvas, x: float, y: float, radius: float) -> None:
    """A lobed pond with a reed edge, its surface level and half a metre below the ground."""
    rng = canvas.rng
    patch = canvas.patch(Box(x, y, 0.0, 3 * radius, 3 * radius))
    if patch is None:
        return
    angle = np.arctan2(patch.across, patch.along)
    reach = 1 + 0.16 * np.sin(2 * angle + rng.uniform(0, 6)) + 0.09 * np.sin(3 * angle + 1)
    outside = (np.hypot(patch.along, patch.across) - radius * reach).astype(np.float32)
    inside = outside < 0
    if not inside.any():
        return
    canvas.blend(patch.where, canvas.soft(outside - 0.9), (0.30, 0.29, 0.17))
    deep = np.clip(-outside / 4, 0, 1)
    canvas.blend(patch.where, canvas.soft(outside), (0.15, 0.235, 0.235), -0.3 * deep)
    surface = canvas.surface[patch.where]
    surface[inside] = float(surface[inside].min()) - 0.5
    canvas.label[patch.where][inside] = WATER
    canvas.taken[patch.where] |= outside < 1.5


def draw_machines(canvas: Canvas, box: Box) -> None:
    """Ventilators and hatches on a flat roof."""
    rng = canvas.rng
    for _ in range(int(box.length * box.width / 70)):
        along = float(rng.uniform(-0.42, 0.42)) * box.length
        place = box.moved(along, float(rng.uniform(-0.3, 0.3)) * box.width)
        size = float(rng.uniform(1.2, 3.0))
        grey = float(rng.uniform(0.45, 0.75))
        fitting = place._replace(length=size, width=float(rng.uniform(1.2, 2.2)))
        draw_fitting(canvas, fitting, float(rng.uniform(0.6, 1.6)), (grey, grey, grey))


def park_rank(canvas: Canvas, lot: Box, rows: tuple[float, ...], share: float) -> None:
    """Stalls of 2.6 x 5 m across the lot's long axis, with lines, a share of them taken."""
    count = int((lot.length - 2) / 2.6)
    for across in rows:
        for index in range(count + 1):
            along = (index - count / 2) * 2.6
            line = lot.moved(along, across)._replace(length=0.14, width=4.8)
            canvas.flat(line, MARK, grain=0.0)
            if index < count and canvas.rng.random() < share:
                stall = lot.moved(along + 1.3 + float(canvas.rng.normal(0, 0.1)), across)
                turn = math.pi / 2 if canvas.rng.random() < 0.6 else -math.pi / 2
                park_car(canvas, stall._replace(angle=lot.angle + turn, length=4.4, width=1.8))


def park_car(canvas: Canvas, box: Box) -> None:
    """A car of some colour near the middle of a box."""
    rng = canvas.rng
    size = float(rng.uniform(0.92, 1.06))
    box = box._replace(length=box.length * size, angle=box.angle + float(rng.normal(0, 0.02)))
    if canvas.free(box.grown(0.15)):
        draw_car(canvas, box, CARS[int(rng.choice(len(CARS), p=CAR_SHARES))])


def plant_tree(
    canvas: Canvas, plan: TownPlan, u: float, v: float, radii: tuple[float, float]
) -> None:
    """A tree with a crown radius between two, metres, at a place of the street frame."""
    x, y = plan.xy_from_uv(u, v)
    radius = float(canvas.rng.uniform(*radii))
    if canvas.free(Box(x, y, 0.0, 1.2 * radius, 1.2 * radius)):
        draw_tree(canvas, x, y, radius, min(15.0, 2.0 + radius * float(canvas.rng.uniform(2, 3))))


def plant_hedge(canvas: Canvas, plan: TownPlan, span: tuple[float, float], v: float) -> None:
    """A hedge of 1.3 m, low vegetation."""
    box = box_at(plan, sum(span) / 2, v, span[1] - span[0], 1.1, 0.0)
    patch = canvas.patch(box)
    if patch is None or not canvas.free(box):
        return
    cover = canvas.coverage(patch, box)
    canvas.blend(patch.where, cover, (0.14, 0.225, 0.075), 0.15 * canvas.grain[patch.where])
    inside = cover > 0.5
    canvas.surface[patch.where][inside] += np.float32(1.3)
    canvas.label[patch.where][inside] = LOW_VEGETATION


def draw_bed(canvas: Canvas, box: Box, pool: bool) -> None:
    """A pool with its rim, or a bed of earth."""
    if not pool:
        canvas.flat(box, (0.27, 0.20, 0.13), LOW_VEGETATION, 0.12)
        return
    canvas.flat(box.grown(0.8), (0.62, 0.59, 0.54), GROUND)
    canvas.flat(box, (0.16, 0.50, 0.58), WATER, 0.03)
    canvas.take(box.grown(0.8))
