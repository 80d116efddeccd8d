"""A synthetic town from plan to canvas: terrain, streets and river, then every block."""

from __future__ import annotations

import math

import numpy as np

from mfnet.synthetic.draw import GROUND, LOW_VEGETATION, WATER, Canvas
from mfnet.synthetic.fill import fill_block
from mfnet.synthetic.light import Floats, grass, rough_noise, smooth_noise
from mfnet.synthetic.plan import PAVEMENT, Street, TownPlan, plan_town
from mfnet.synthetic.props import ASPHALT, MARK, PAVING, park_along, trees_along

KINDS = ("houses", "park", "shops", "flats", "houses", "flats")


def paint_town(size: tuple[int, int], pixel: float, rng: np.random.Generator) -> Canvas:
    """A finished canvas: reflectance, surface heights and labels, without light."""
    rows, columns = size
    plan = plan_town(rng, (rows * pixel, columns * pixel))
    y, x = np.meshgrid(
        (np.arange(rows, dtype=np.float32) + 0.5) * np.float32(pixel),
        (np.arange(columns, dtype=np.float32) + 0.5) * np.float32(pixel),
        indexing="ij",
    )
    u, v = plan.uv_from_xy(x, y)
    terrain = _terrain(size, pixel, rng)
    canvas = Canvas(
        albedo=grass(size, rng, pixel),
        surface=terrain,
        ground=terrain,
        label=np.full(size, LOW_VEGETATION, np.uint8),
        taken=np.zeros(size, np.bool_),
        pixel=pixel,
        rng=rng,
        grain=smooth_noise(rng, size, 1.3),
    )
    level = _river(canvas, plan, u, v)
    _streets(canvas, plan, u, v, level)
    canvas.ground = canvas.surface.copy()
    blocks = plan.blocks()
    start = int(rng.integers(len(KINDS)))
    kinds = {}
    for index, block in enumerate(block for block in blocks if not block.river):
        kinds[block] = KINDS[(start + index) % len(KINDS)]
    for block in blocks:
        fill_block(canvas, plan, block, kinds.get(block, "river"))
    reaches = plan.reaches()
    for reach in reaches:
        park_along(canvas, plan, reach)
    for reach in reaches:
        if reach.street.main and not reach.bridge:
            trees_along(canvas, plan, reach)
    return canvas


def _terrain(size: tuple[int, int], pixel: float, rng: np.random.Generator) -> Floats:
    """Heights about 112 m: a slope and rolling ground of a few metres."""
    height = np.float32(112) + rough_noise(rng, size, 130 / pixel, octaves=2)
    direction = float(rng.uniform(0, 2 * math.pi))
    fall = 0.012 * pixel  # metres a pixel
    rows = np.arange(size[0], dtype=np.float32)[:, None]
    columns = np.arange(size[1], dtype=np.float32)[None, :]
    slope = np.float32(fall) * (math.sin(direction) * rows + math.cos(direction) * columns)
    rough = np.float32(0.03) * smooth_noise(rng, size, 0.8 / pixel)
    return (height + slope + rough).astype(np.float32)


def _river(canvas: Canvas, plan: TownPlan, u: Floats, v: Floats) -> Floats | None:
    """Banks and water; returns the height of bridge decks, None without a river."""
    outside = plan.river_distance(u, v)
    if outside is None:
        return None
    ground = canvas.surface.copy()
    near = outside < 9
    water = float(ground[near].min()) - 2.2 if near.any() else 0.0
    bank = np.clip(outside / 8, 0, 1)
    canvas.surface[...] = np.where(near, water + (ground - water) * bank**1.3, ground)
    everywhere = (slice(None), slice(None))
    rough = canvas.grain * np.float32(0.3)
    canvas.blend(everywhere, canvas.soft(outside - 1.1 - rough), (0.40, 0.37, 0.27))
    depth = np.clip(-outside / 6, 0, 1)
    ripple = rough_noise(canvas.rng, canvas.label.shape, 5 / canvas.pixel)
    wet = canvas.soft(outside)
    canvas.blend(everywhere, wet, (0.20, 0.285, 0.28), -0.30 * depth + 0.035 * ripple)
    inside = wet > 0.5
    canvas.surface[inside] = water
    canvas.label[inside] = WATER
    canvas.taken |= outside < 1.0
    return ground


def _streets(canvas: Canvas, plan: TownPlan, u: Floats, v: Floats, level: Floats | None) -> None:
    """Pavements, carriageways, marks and bridges, everywhere at once."""
    family_u = _nearest(plan.streets_u, u)
    family_v = _nearest(plan.streets_v, v)
    if level is not None and plan.river is not None:
        middle = plan.river[1]
        left = max(street.at for street in plan.streets_u if street.at < middle)
        right = min(street.at for street in plan.streets_u if street.at > middle)
        corridor = (u > left) & (u < right)
        bridges = _nearest(tuple(s for s in plan.streets_v if s.bridge), v)
        family_v = [
            np.where(corridor, b, a).astype(np.float32)
            for a, b in zip(family_v, bridges, strict=True)
        ]
    everywhere = (slice(None), slice(None))
    beside_u, beside_v = family_u[0] - family_u[1], family_v[0] - family_v[1]
    kerb = np.minimum(beside_u, beside_v)
    rounded = np.where(  # corners of 4 m radius
        (beside_u > 0) & (beside_v > 0) & (beside_u < 4) & (beside_v < 4),
        4 - np.hypot(4 - beside_u, 4 - beside_v),
        kerb,
    ).astype(np.float32)
    paved = canvas.soft(kerb - np.float32(PAVEMENT))
    slabs = 0.05 * canvas.grain + 0.04 * smooth_noise(canvas.rng, kerb.shape, 3 / canvas.pixel)
    canvas.blend(everywhere, paved, PAVING, slabs)
    canvas.blend(everywhere, canvas.soft(rounded - 0.2), (0.58, 0.57, 0.55))
    worn = 0.05 * canvas.grain + 0.05 * rough_noise(canvas.rng, kerb.shape, 14 / canvas.pixel)
    canvas.blend(everywhere, canvas.soft(rounded), ASPHALT, worn)
    for here, other, along in ((family_u, family_v, v), (family_v, family_u, u)):
        _marks(canvas, here, other, along)
    ground = paved > 0.5
    if level is not None:
        over = ground & (canvas.label == WATER)
        deck = level.copy()
        canvas.surface[ground] = deck[ground]
        rail = over & (np.abs(kerb - np.float32(PAVEMENT - 0.3)) < 0.3)
        canvas.surface[rail] += np.float32(0.9)
        canvas.blend(everywhere, rail.astype(np.float32), (0.62, 0.60, 0.56))
    canvas.label[ground] = GROUND
    canvas.taken &= ~ground  # cars may cross a bridge
    canvas.surface[rounded < 0] -= np.float32(0.12)  # kerb


def _nearest(streets: tuple[Street, ...], at: Floats) -> list[Floats]:
    """Distance to the nearest street's axis, and that street's half width, metres."""
    best = np.full(at.shape, 1e6, np.float32)
    half = np.ones(at.shape, np.float32)
    for street in streets:
        distance = np.abs(at - np.float32(street.at))
        closer = distance - street.half < best - half
        best = np.where(closer, distance, best)
        half = np.where(closer, np.float32(street.half), half)
    return [best, half]


def _marks(canvas: Canvas, here: list[Floats], other: list[Floats], along: Floats) -> None:
    """Centre dashes and crossings of the main streets of one family."""
    distance, half = here
    gap = other[0] - other[1]  # metres to the crossing street's kerb
    main = half > 4
    open_road = main & (gap > 8)
    dash = np.abs((along / 5) % 1 - 0.5) * 5 - 1.4
    line = canvas.soft(np.maximum(distance - 0.09, dash)) * open_road
    lanes = canvas.soft(np.abs(distance - half + 2.2) - 0.06) * open_road
    stripes = np.abs((distance + 0.5) % 1.0 - 0.5) - 0.25
    zebra = np.maximum(np.maximum(stripes, np.abs(gap - 4.5) - 1.3), distance - half + 0.4)
    everywhere = (slice(None), slice(None))
    canvas.blend(everywhere, line.astype(np.float32), MARK)
    canvas.blend(everywhere, (lanes * 0.5).astype(np.float32), MARK)
    canvas.blend(everywhere, (canvas.soft(zebra.astype(np.float32)) * main), MARK)
