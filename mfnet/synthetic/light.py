"""Texture, sun, shadow and sensor of a synthetic scene, on plain arrays. Knows no town."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Sun:
    """Where the light comes from."""

    azimuth: float = 205.0  # degrees clockwise from north; north is up
    elevation: float = 44.0  # degrees above the horizon

    @property
    def towards(self) -> tuple[float, float, float]:
        """Unit vector to the sun: rows, columns, up."""
        azimuth, elevation = math.radians(self.azimuth), math.radians(self.elevation)
        flat = math.cos(elevation)
        return -flat * math.cos(azimuth), flat * math.sin(azimuth), math.sin(elevation)


def smooth_noise(rng: np.random.Generator, shape: tuple[int, int], cell: float) -> Floats:
    """(row, column) noise of mean 0 and deviation about 1, smooth over `cell` pixels.

    Random values on a grid, interpolated by cubic B-splines.
    """
    weights = [_spline_weights(length, cell) for length in shape]
    grid = rng.standard_normal((weights[0].shape[1], weights[1].shape[1]), np.float32)
    noise = weights[0] @ grid @ weights[1].T * np.float32(2.1)
    return np.asarray(noise, np.float32)


def rough_noise(
    rng: np.random.Generator, shape: tuple[int, int], cell: float, octaves: int = 3
) -> Floats:
    """Sum of smooth noises, each of half the cell and 0.6 of the strength of the one before."""
    total = np.zeros(shape, np.float32)
    for octave in range(octaves):
        total += np.float32(0.6**octave) * smooth_noise(rng, shape, max(cell / 2**octave, 1.0))
    return total


def grass(shape: tuple[int, int], rng: np.random.Generator, pixel: float) -> Floats:
    """(3, row, column) reflectance of grass: dry patches, clumps and blades."""
    dry = np.clip(0.5 + 0.33 * rough_noise(rng, shape, 18 / pixel), 0, 1)
    fine = 0.055 * smooth_noise(rng, shape, 1.2) + 0.05 * smooth_noise(rng, shape, 1.0 / pixel)
    lush, parched = (0.225, 0.325, 0.115), (0.375, 0.385, 0.185)
    return np.stack(
        [
            ((1 - dry) * green + dry * brown) * (1 + fine)
            for green, brown in zip(lush, parched, strict=True)
        ]
    ).astype(np.float32)


def _spline_weights(length: int, cell: float) -> Floats:
    at = np.arange(length, dtype=np.float32) / np.float32(cell)
    base = np.floor(at).astype(int)
    t = at - base
    pieces = ((1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3)
    weights = np.zeros((length, int(base[-1]) + 4), np.float32)
    for offset, piece in enumerate(pieces):
        weights[np.arange(length), base + offset] = piece / 6
    return weights


def shadow(surface: Floats, pixel: float, sun: Sun, soft: float = 0.5) -> Floats:
    """Share of the sunlight that other parts of the surface take away, 0 to 1.

    Args:
        surface: (row, column) heights in metres.
        pixel: Pixel size in metres.
        sun: Direction of the light.
        soft: Metres of height over which a shadow's edge fades.
    """
    down, right, _ = sun.towards
    flat = math.hypot(down, right)
    drop = pixel * math.tan(math.radians(sun.elevation))  # metres the ray climbs a pixel
    reach = int((float(surface.max()) - float(surface.min())) / drop) + 1
    highest = np.full_like(surface, -np.inf)
    rows, columns = surface.shape
    for step in range(1, min(reach, max(rows, columns)) + 1):
        dy, dx = round(step * down / flat), round(step * right / flat)
        if abs(dy) >= rows or abs(dx) >= columns:
            break
        here = (
            slice(max(0, -dy), rows - max(0, dy)),
            slice(max(0, -dx), columns - max(0, dx)),
        )
        there = (
            slice(max(0, dy), rows - max(0, -dy)),
            slice(max(0, dx), columns - max(0, -dx)),
        )
        np.maximum(highest[here], surface[there] - np.float32(step * drop), out=highest[here])
    return np.asarray(np.clip((highest - surface) / np.float32(soft), 0, 1), np.float32)


def lambert(surface: Floats, pixel: float, sun: Sun) -> Floats:
    """Cosine between surface normal and sun over that of level ground; walls keep their roof's.

    The gradient is the smaller of the two one-sided differences (zero where they disagree), so
    that a height step does not shade its neighbours.
    """
    slopes = []
    for axis in (0, 1):
        steps = np.diff(surface, axis=axis) / np.float32(pixel)
        before = np.concatenate([steps.take([0], axis), steps], axis)
        after = np.concatenate([steps, steps.take([-1], axis)], axis)
        smaller = np.where(np.abs(before) < np.abs(after), before, after)
        slopes.append(np.where(before * after > 0, smaller, np.float32(0)))
    down, right, up = sun.towards
    length = np.sqrt(1 + slopes[0] ** 2 + slopes[1] ** 2)
    cosine = (np.float32(up) - down * slopes[0] - right * slopes[1]) / length
    return np.asarray(np.clip(cosine / np.float32(up), 0.15, 1.6), np.float32)


def openness(surface: Floats, radius: int) -> Floats:
    """Darkening near walls, 0.45 to 1: how far the surface lies below its surroundings."""
    below = np.maximum(box_mean(surface, radius) - surface, 0)
    return np.asarray(np.maximum(1 - np.float32(0.09) * below, 0.45), np.float32)


def box_mean(values: Floats, radius: int) -> Floats:
    """Mean over a square of 2 radius + 1 pixels, edges repeated."""
    for axis in (0, 1):
        pad = [(0, 0), (0, 0)]
        pad[axis] = (radius + 1, radius)
        total = np.cumsum(np.pad(values, pad, mode="edge"), axis=axis, dtype=np.float64)
        width = 2 * radius + 1
        upper = total.take(range(width, total.shape[axis]), axis)
        lower = total.take(range(total.shape[axis] - width), axis)
        values = ((upper - lower) / width).astype(np.float32)
    return values


def expose(
    albedo: Floats, surface: Floats, pixel: float, sun: Sun, rng: np.random.Generator
) -> npt.NDArray[np.uint8]:
    """What a camera above sees: light, optics and sensor noise.

    Args:
        albedo: (3, row, column) reflectance, 0 to 1.
        surface: (row, column) heights in metres.
        pixel: Pixel size in metres.
        sun: Direction of the light.
        rng: Source of the noise.

    Returns:
        (3, row, column) 8-bit image.
    """
    direct = lambert(surface, pixel, sun) * (1 - np.float32(0.93) * shadow(surface, pixel, sun))
    sky = openness(surface, round(1.5 / pixel))
    image = np.empty(albedo.shape, np.uint8)
    # Skylight is blue and sunlight warm, hence bluish shadows.
    for band, (sunlight, skylight) in enumerate(((0.96, 0.35), (0.93, 0.39), (0.86, 0.48))):
        light = np.float32(sunlight) * direct + np.float32(skylight) * sky
        seen = _optics(albedo[band] * light)
        seen = np.clip(seen, 0, 1.6) ** np.float32(0.80)
        seen = seen / (1 + np.float32(0.12) * seen) * np.float32(258)
        seen += rng.standard_normal(seen.shape, np.float32) * np.float32(2.2)
        image[band] = np.clip(seen + np.float32(0.5), 0, 255)
    return image


def _optics(values: Floats) -> Floats:
    """Blur of lens and sensor: [1 4 1] / 6 along both axes."""
    for axis in (0, 1):
        pad = [(0, 0), (0, 0)]
        pad[axis] = (1, 1)
        wide = np.pad(values, pad, mode="edge")
        count = values.shape[axis]
        outer = wide.take(range(count), axis) + wide.take(range(2, count + 2), axis)
        values = (outer + 4 * values) / np.float32(6)
    return values
