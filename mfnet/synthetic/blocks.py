"""Blocks of the synthetic town: houses, flats, shops and parks; a block is a box along u."""

from __future__ import annotations

import math

import numpy as np

from mfnet.synthetic.canvas import GROUND, LOW_VEGETATION, WATER, Box, Canvas, Paint

PAVING, PATH, MARK = (0.47, 0.44, 0.41), (0.50, 0.44, 0.35), (0.78, 0.78, 0.76)
TILES = ((0.52, 0.24, 0.16), (0.58, 0.30, 0.20), (0.36, 0.21, 0.16), (0.27, 0.27, 0.28))
GRAVEL = ((0.60, 0.59, 0.57), (0.50, 0.49, 0.47), (0.68, 0.66, 0.61), (0.42, 0.43, 0.45))


def _build_houses(canvas: Canvas, block: Box) -> None:
    """Draw two rows of gabled houses with drives, gardens and a hedge between them."""
    rng, length, width = canvas.rng, block.length, block.width
    tiles = rng.choice(TILES)
    for side in (-1, 1):
        along = rng.uniform(2.5, 5) - length / 2
        while along + (front := rng.uniform(9, 13)) < length / 2 - 2:
            depth = rng.uniform(9, 11)
            house = block.part(along + front / 2, side * (width / 2 - 4 - depth / 2), front, depth)
            if rng.random() < 0.25:
                house = house.turned()
            if canvas.free(house.grown(1)):
                _build_house(canvas, house, tiles if rng.random() < 0.5 else rng.choice(TILES))
            reach = 4 + depth / 2
            drive = block.part(along + front + 1.6, side * (width - reach) / 2, 2.8, reach).turned()
            if canvas.free(drive):
                canvas.add(drive, PAVING, GROUND)
                if rng.random() < 0.55:
                    canvas.add_car(drive)
            along += front + rng.uniform(3.6, 5.4)
    for along in np.arange(4 - length / 2, length / 2 - 3, 6):
        hedge = block.part(along, 0, 6, 1.1)
        if rng.random() < 0.7 and canvas.free(hedge):
            canvas.add(hedge, (0.14, 0.225, 0.075), LOW_VEGETATION, height=1.3, grain=0.15)
    if rng.random() < 0.6:
        pool = block.part(rng.uniform(-0.4, 0.4) * length, 3.5, rng.uniform(3, 6), 2.6)
        if canvas.free(pool.grown(1)):
            canvas.add(pool.grown(0.8), (0.62, 0.59, 0.54), GROUND)
            canvas.add(pool, (0.16, 0.50, 0.58), WATER)
    _plant_trees(canvas, block, int(length * width / 95), (1.4, 3.4))


def _build_house(canvas: Canvas, box: Box, tiles: Paint) -> None:
    """Draw a gabled house with a terrace, a chimney, and perhaps a wing and solar panels."""
    rng, length, width = canvas.rng, box.length, box.width
    eave, side = rng.uniform(4, 6.5), rng.choice((-1, 1))
    canvas.add_building(box, eave, width * rng.uniform(0.30, 0.42), tiles)
    if rng.random() < 0.3:
        wing = box.part(length / 4, side * width * 0.55, 5.5, width * 0.9).turned()
        canvas.add_building(wing, eave - 0.4, 2.0, tiles)
    canvas.add(box.part(-length / 4, -side * (width / 2 + 1.6), 5, 3), PAVING, GROUND)
    chimney = box.part(length * rng.uniform(-0.3, 0.3), 0.6, 0.9, 0.9)
    canvas.add(chimney, (0.38, 0.22, 0.18), height=1, on_roof=True)
    if rng.random() < 0.3:
        panels = box.part(0, width / 4, length * 0.55, width * 0.3)
        canvas.add(panels, (0.055, 0.075, 0.14), height=0.12, on_roof=True, grain=0)


def _build_flats(canvas: Canvas, block: Box) -> None:
    """Draw two blocks of flats with a parking lot and trees between them."""
    rng, length, width = canvas.rng, block.length, block.width
    eave, rise = rng.uniform(11, 21), rng.choice((0.0, 3.4))
    roof = rng.choice(TILES if rise else GRAVEL)
    yard = block.part(8, 0, length - 24, 6.5)
    canvas.add(yard, PAVING, GROUND)
    for side, share in ((-1, 1.0), (1, 0.8)):
        flats = block.part(0, side * (width / 2 - 9), share * (length - 6), 12)
        if canvas.free(flats.grown(0.5)):
            canvas.add_building(flats, eave + 2 * side, rise, roof)
            _add_machines(canvas, flats)
    _add_stalls(canvas, yard.part(2, 0, yard.length, 5), 0.55)
    _plant_trees(canvas, block.part(8, 0, length - 16, width - 24), 10, (1.8, 3.8))


def _build_shops(canvas: Canvas, block: Box) -> None:
    """Draw a hall with skylights, and a parking lot beside it."""
    rng, length, width = canvas.rng, block.length, block.width
    canvas.add(block.grown(-1.5), (0.33, 0.325, 0.32), GROUND)
    depth = length * rng.uniform(0.42, 0.5)
    hall = block.part(4 + (depth - length) / 2, 0, depth, width - 8)
    if canvas.free(hall):
        canvas.add_building(hall.turned(), rng.uniform(7, 12), 0, rng.choice(GRAVEL))
        _add_machines(canvas, hall)
        for index in range(-2, 3):
            light = hall.part(depth / 5, index * width / 7, 7, 1.6)
            canvas.add(light, (0.72, 0.80, 0.84), height=0.4, on_roof=True)
    for along in (depth + 11.6 - length / 2, length / 2 - 5.6):
        _add_stalls(canvas, block.part(along, 0, 5, width - 8).turned(), 0.68)
    for across in np.arange(5 - width / 2, width / 2 - 4, 8.5):
        canvas.add_tree(block.part(length / 2 - 0.8, across), (1.7, 2.4))


def _lay_park(canvas: Canvas, block: Box) -> None:
    """Draw a meadow with groves and a winding path."""
    rng, length, width = canvas.rng, block.length, block.width
    swing, phase = rng.uniform(3, 7), rng.uniform(0, 6.3)
    for along in np.arange(-length / 2, length / 2):
        step = block.part(along, swing * math.sin(phase + along / 11), 2.6, 2.4)
        canvas.add(step, PATH, GROUND, grain=0.07)
    for _ in range(5):
        along, across = rng.uniform(-0.35, 0.35, 2) * (length, width)
        _plant_trees(canvas, block.part(along, across, 14, 14), 8, (2.2, 4.6))


def plant_riverside(canvas: Canvas, block: Box) -> None:
    """Plant trees on both banks."""
    for side in (-1, 1):
        bank = block.part(side * (block.length / 2 - 6), 0, 6, block.width)
        _plant_trees(canvas, bank, int(block.width * 0.27), (1.8, 4.4))


BLOCKS = (_build_houses, _lay_park, _build_shops, _build_flats, _build_houses, _build_flats)


def _plant_trees(canvas: Canvas, box: Box, count: int, radii: tuple[float, float]) -> None:
    """Plant trees in a box, except where something stands."""
    for along, across in canvas.rng.uniform(-0.5, 0.5, (count, 2)):
        canvas.add_tree(box.part(along * box.length, across * box.width), radii)


def _add_machines(canvas: Canvas, roof: Box) -> None:
    """Draw ventilators and hatches on a flat roof."""
    rng = canvas.rng
    for along, across in rng.uniform(-0.4, 0.4, (int(roof.length * roof.width / 70), 2)):
        size = rng.uniform((1.2, 1.2), (3.0, 2.2))
        machine = roof.part(along * roof.length, across * roof.width, *size)
        grey = [rng.uniform(0.45, 0.75)] * 3
        canvas.add(machine, grey, height=rng.uniform(0.6, 1.6), on_roof=True)


def _add_stalls(canvas: Canvas, lot: Box, share: float) -> None:
    """Draw a row of stalls of 2.6 m, with a car on a share of them."""
    rng, edge = canvas.rng, int((lot.length - 2) / 2.6) * 1.3
    for along in np.arange(-edge, edge + 0.1, 2.6):
        canvas.add(lot.part(along, 0, 0.14, 4.8), MARK, grain=0)
        if along < edge - 0.1 and rng.random() < share:
            stall = lot.part(along + 1.3 + rng.normal(0, 0.1), 0).turned()
            canvas.add_car(stall if rng.random() < 0.6 else stall.turned().turned())
