"""Texture, sunlight and camera of the synthetic town, on plain arrays."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]
Sun = tuple[float, float]  # degrees: azimuth clockwise from north (up), elevation


def smooth_noise(rng: np.random.Generator, shape: tuple[int, ...], cell: float) -> Floats:
    """Return (row, column) noise of mean 0 and deviation about 1, smooth over `cell` pixels."""
    noise: Floats = rng.standard_normal([int(count / cell) + 2 for count in shape], np.float32)
    for count in shape:  # interpolate along the rows, then along the columns
        below, t = np.divmod(np.arange(count, dtype=np.float32) / np.float32(cell), 1)
        low, share = below.astype(int), (t * t * (3 - 2 * t))[:, None]
        noise = ((1 - share) * noise[low] + share * noise[low + 1]).T
    return noise / np.float32(0.74)


def rough_noise(rng: np.random.Generator, shape: tuple[int, ...], cell: float) -> Floats:
    """Sum three smooth noises, each with half the cell and 0.6 of the strength of the last."""
    noises = [0.6**k * smooth_noise(rng, shape, max(cell / 2**k, 1)) for k in range(3)]
    return np.asarray(np.sum(noises, axis=0))


def box_mean(values: Floats, radius: int) -> Floats:
    """Average over squares of 2 radius + 1 pixels; edges are repeated."""
    width = 2 * radius + 1
    for _ in range(2):  # along the columns, then along the rows
        padded = np.pad(values, ((0, 0), (radius + 1, radius)), mode="edge")
        total = np.cumsum(padded, axis=1, dtype=np.float64)
        values = ((total[:, width:] - total[:, :-width]) / width).T
    return values.astype(np.float32)


def sunlight(surface: Floats, pixel: float, sun: Sun) -> Floats:
    """Return the direct light on (row, column) heights: 1 on level ground, near 0 in shadow.

    Slopes are the smaller of the two one-sided differences, and 0 where they disagree, so that a
    wall does not shade the pixels beside it. Heights and the pixel size are metres.
    """
    azimuth, elevation = (math.radians(angle) for angle in sun)
    down, right, climb = -math.cos(azimuth), math.sin(azimuth), math.tan(elevation)
    steepness = []
    for axis in (0, 1):
        steps = np.diff(surface, axis=axis) / np.float32(pixel)
        before = np.concatenate([steps.take([0], axis), steps], axis)
        after = np.concatenate([steps, steps.take([-1], axis)], axis)
        smaller = np.where(np.abs(before) < np.abs(after), before, after)
        steepness.append(np.where(before * after > 0, smaller, 0))
    cosine = 1 - (down * steepness[0] + right * steepness[1]) / climb
    cosine /= np.sqrt(1 + steepness[0] ** 2 + steepness[1] ** 2)
    rows, columns = surface.shape
    reach = math.ceil(float(np.ptp(surface)) / (climb * pixel))
    padded = np.pad(surface, reach, mode="edge")
    blocking = np.full_like(surface, -np.inf)  # height of the shadow's upper edge
    for step in range(1, reach + 1):
        top, left = reach + round(step * down), reach + round(step * right)
        towards_sun = padded[top : top + rows, left : left + columns]
        np.maximum(blocking, towards_sun - np.float32(step * climb * pixel), out=blocking)
    return np.clip(cosine, 0.15, 1.6) * (1 - 0.93 * np.clip((blocking - surface) / 0.5, 0, 1))


def expose(
    albedo: Floats, surface: Floats, pixel: float, sun: Sun, rng: np.random.Generator
) -> npt.NDArray[np.uint8]:
    """Photograph a scene from above: sunlight, skylight, blur and sensor noise.

    Args:
        albedo: (3, row, column) reflectance, 0 to 1.
        surface: (row, column) heights in metres.
        pixel: Pixel size in metres.
        sun: Direction of the light.
        rng: Source of the noise.
    """
    direct = sunlight(surface, pixel, sun).astype(np.float32)
    depth = np.maximum(box_mean(surface, round(1.5 / pixel)) - surface, 0)  # below its surroundings
    sky = np.maximum(1 - 0.09 * depth, 0.45)
    image = np.empty(albedo.shape, np.uint8)
    # Sunlight is warm and skylight is blue, hence the bluish shadows.
    for band, (warm, cold) in enumerate(((0.96, 0.35), (0.93, 0.39), (0.86, 0.48))):
        light = albedo[band] * (warm * direct + cold * sky)
        light = np.clip(0.45 * light + 0.55 * box_mean(light, 1), 0, 1.6) ** 0.8
        noise = 2.2 * rng.standard_normal(light.shape, np.float32)
        image[band] = np.clip(258 * light / (1 + 0.12 * light) + noise + 0.5, 0, 255)
    return image
