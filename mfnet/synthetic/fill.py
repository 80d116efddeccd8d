"""What stands in a block of the synthetic town: houses, flats, shops, parks, the riverside."""

from __future__ import annotations

import math

import numpy as np

from mfnet.synthetic.draw import GROUND, Canvas, Paint, draw_building, draw_fitting
from mfnet.synthetic.plan import Block, Box, TownPlan
from mfnet.synthetic.props import (
    PAVING,
    box_at,
    draw_bed,
    draw_machines,
    draw_pond,
    park_car,
    park_rank,
    plant_hedge,
    plant_tree,
)

TILES: tuple[Paint, ...] = (
    (0.52, 0.235, 0.155),
    (0.46, 0.205, 0.145),
    (0.58, 0.300, 0.200),
    (0.36, 0.205, 0.160),
    (0.27, 0.265, 0.275),
    (0.50, 0.345, 0.255),
)
FLATS: tuple[Paint, ...] = (
    (0.60, 0.59, 0.57),
    (0.50, 0.49, 0.47),
    (0.68, 0.66, 0.61),
    (0.42, 0.43, 0.45),
    (0.57, 0.52, 0.45),
)


def fill_block(canvas: Canvas, plan: TownPlan, block: Block, kind: str) -> None:
    """Draw one block of a kind: houses, flats, shops, park or river."""
    {
        "houses": _houses,
        "flats": _flats,
        "shops": _shops,
        "park": _park,
        "river": _riverside,
    }[kind](canvas, plan, block)


def _houses(canvas: Canvas, plan: TownPlan, block: Block) -> None:
    """Detached and terraced gabled houses in two rows, gardens between them."""
    rng = canvas.rng
    (u0, u1), (v0, v1) = block.u, block.v
    tile = TILES[int(rng.integers(len(TILES)))]
    for side in (0, 1):
        depth = float(rng.uniform(9, 11))
        u = u0 + float(rng.uniform(2.5, 5))
        while True:
            length = float(rng.uniform(9, 13))
            if u + length > u1 - 2:
                break
            v = v0 + 4 + depth / 2 if side == 0 else v1 - 4 - depth / 2
            turned = rng.random() < 0.25
            size = (depth, min(length, 9.0)) if turned else (length, depth)
            box = box_at(plan, u + length / 2, v, *size, math.pi / 2 if turned else 0.0)
            paint = tile if rng.random() < 0.5 else TILES[int(rng.integers(len(TILES)))]
            _house(canvas, box, paint, 0 if turned else 1 - 2 * side)
            street_v = v0 if side == 0 else v1
            drive = box_at(plan, u + length + 1.6, (street_v + v) / 2, 2.8, abs(street_v - v), 0.0)
            if canvas.free(drive):
                canvas.flat(drive, PAVING, GROUND)
                if rng.random() < 0.55:
                    park_car(
                        canvas,
                        drive._replace(angle=drive.angle + math.pi / 2, length=4.4, width=1.8),
                    )
            u += length + float(rng.uniform(3.6, 5.4))
    middle = (v0 + v1) / 2
    for u in np.arange(u0 + 1, u1 - 6, 6.0):
        if rng.random() < 0.7:
            plant_hedge(canvas, plan, (float(u), float(u) + 6), middle)
    for _ in range(int((u1 - u0) * (v1 - v0) / 150)):
        u, v = float(rng.uniform(u0 + 1, u1 - 1)), middle + float(rng.normal(0, 6))
        if rng.random() < 0.14:
            bed = box_at(plan, u, v, float(rng.uniform(3, 6)), float(rng.uniform(2, 3)), 0.0)
            if canvas.free(bed.grown(1)):
                pool = rng.random() < 0.3
                draw_bed(canvas, bed, pool)
        else:
            plant_tree(canvas, plan, u, v, (1.4, 3.4))


def _house(canvas: Canvas, box: Box, paint: Paint, garden: int) -> None:
    """A gabled house; `garden` is the side, 1 or -1 across the box, of a wing; 0 for neither."""
    rng = canvas.rng
    if not canvas.free(box.grown(1.0)):
        return
    eave, rise = float(rng.uniform(4.0, 6.5)), box.width * float(rng.uniform(0.30, 0.42))
    draw_building(canvas, box, eave, rise, paint)
    if garden and rng.random() < 0.35:  # a wing makes an L
        wing = box.moved(box.length / 4, garden * box.width * 0.55)
        wing = wing._replace(angle=box.angle + math.pi / 2, length=box.width * 0.9, width=5.5)
        draw_building(canvas, wing, eave - 0.4, 2.0, paint)
    canvas.flat(
        box.moved(-box.length / 4, -box.width / 2 - 1.6)._replace(length=5.0, width=3.0),
        PAVING,
        GROUND,
    )
    draw_fitting(
        canvas,
        box.moved(box.length * float(rng.uniform(-0.3, 0.3)), 0.6)._replace(length=0.9, width=0.9),
        1.0,
        (0.38, 0.22, 0.18),
    )
    if rng.random() < 0.3:
        sunny = box.width / 4 if math.cos(box.angle) > 0 else -box.width / 4
        panels = box.moved(0, sunny)._replace(length=box.length * 0.55, width=box.width * 0.3)
        draw_fitting(canvas, panels, 0.12, (0.055, 0.075, 0.14))


def _flats(canvas: Canvas, plan: TownPlan, block: Block) -> None:
    """Blocks of flats around a courtyard with a drive, cars and trees."""
    rng = canvas.rng
    (u0, u1), (v0, v1) = block.u, block.v
    height = float(rng.uniform(11, 21))
    gabled = rng.random() < 0.45
    depth = 12.0
    paint = (TILES if gabled else FLATS)[int(rng.integers(5))]
    long_u, long_v = u1 - u0 - 6, v1 - v0 - 2 * depth - 14
    wings = [
        (box_at(plan, (u0 + u1) / 2, v0 + 3 + depth / 2, long_u, depth, 0.0), 0.0),
        (box_at(plan, (u0 + u1) / 2, v1 - 3 - depth / 2, long_u * 0.8, depth, 0.0), 3.0),
        (box_at(plan, u0 + 3 + depth / 2, (v0 + v1) / 2, long_v, depth, math.pi / 2), -3.0),
    ]
    yard = box_at(plan, (u0 + u1) / 2 + 8, (v0 + v1) / 2, u1 - u0 - 24, 6.5, 0.0)
    canvas.flat(yard, PAVING, GROUND)
    for box, higher in wings:
        if box.length < 9 or not canvas.free(box.grown(0.5)):
            continue
        draw_building(canvas, box, height + higher, 3.4 if gabled else 0.0, paint)
        if not gabled:
            draw_machines(canvas, box)
    park_rank(canvas, yard.moved(2, 0), rows=(0.0,), share=0.55)
    for _ in range(int((u1 - u0) * (v1 - v0) / 220)):
        u = float(rng.uniform(u0 + depth + 5, u1 - 2))
        plant_tree(canvas, plan, u, float(rng.uniform(v0 + depth, v1 - depth)), (1.8, 3.8))


def _shops(canvas: Canvas, plan: TownPlan, block: Block) -> None:
    """A hall with a flat roof and a parking lot before it."""
    rng = canvas.rng
    (u0, u1), (v0, v1) = block.u, block.v
    centre = (v0 + v1) / 2
    lot = box_at(plan, (u0 + u1) / 2, centre, u1 - u0 - 3, v1 - v0 - 3, 0.0)
    canvas.flat(lot, (0.33, 0.325, 0.32), GROUND, 0.06)
    share = float(rng.uniform(0.42, 0.5))
    hall = box_at(
        plan, u0 + 4 + (u1 - u0) * share / 2, centre, (v1 - v0) - 8, (u1 - u0) * share, math.pi / 2
    )
    if canvas.free(hall):
        draw_building(canvas, hall, float(rng.uniform(7, 12)), 0.0, FLATS[int(rng.integers(3))])
        draw_machines(canvas, hall)
        step = hall.length / 6
        for index in range(-2, 3):
            light = hall.moved(index * step, hall.width * 0.2)._replace(length=1.6, width=7.0)
            draw_fitting(canvas, light, 0.4, (0.72, 0.80, 0.84))
    left = u0 + 9 + (u1 - u0) * share
    stalls = box_at(plan, (left + u1 - 3) / 2, centre, v1 - v0 - 8, u1 - 3 - left, math.pi / 2)
    park_rank(canvas, stalls, rows=(-stalls.width / 2 + 2.6, stalls.width / 2 - 2.6), share=0.68)
    along = v0 + 5
    while along < v1 - 4:
        plant_tree(canvas, plan, u1 - 0.8, along, (1.7, 2.4))
        along += 8.5


def _park(canvas: Canvas, plan: TownPlan, block: Block) -> None:
    """Meadow with groves, a winding path and a pond."""
    rng = canvas.rng
    (u0, u1), (v0, v1) = block.u, block.v
    swing, phase = float(rng.uniform(3, 7)), float(rng.uniform(0, 6.3))
    for index in range(60):
        u = u0 + (u1 - u0) * index / 59
        v = (v0 + v1) / 2 + swing * math.sin(phase + index / 11)
        canvas.flat(box_at(plan, u, v, 2.6, 2.4, 0.0), (0.50, 0.44, 0.35), GROUND, 0.07)
    if plan.river is None or rng.random() < 0.4:
        x, y = plan.xy_from_uv((u0 + u1) / 2 + 4, v0 + (v1 - v0) * 0.24)
        draw_pond(canvas, x, y, min(u1 - u0, v1 - v0) * 0.15)
    for _ in range(5):
        u, v = float(rng.uniform(u0 + 5, u1 - 5)), float(rng.uniform(v0 + 5, v1 - 5))
        for _ in range(int(rng.integers(5, 11))):
            place = u + float(rng.normal(0, 4.5)), v + float(rng.normal(0, 4.5))
            if u0 < place[0] < u1 and v0 < place[1] < v1:
                plant_tree(canvas, plan, *place, (2.2, 4.6))


def _riverside(canvas: Canvas, plan: TownPlan, block: Block) -> None:
    """A path on both banks and trees in loose groups."""
    rng = canvas.rng
    (u0, u1), (v0, v1) = block.u, block.v
    for u in (u0 + 2.4, u1 - 2.4):
        for v in np.arange(v0 - 1, v1 + 1, 2.5):
            step = box_at(plan, u, float(v) + 1.25, 2.7, 1.8, math.pi / 2)
            canvas.flat(step, (0.50, 0.44, 0.35), GROUND, 0.07)
    for _ in range(int((v1 - v0) * 0.55)):
        u = u0 + float(rng.uniform(3, 9)) if rng.random() < 0.5 else u1 - float(rng.uniform(3, 9))
        plant_tree(canvas, plan, u, float(rng.uniform(v0, v1)), (1.8, 4.4))
