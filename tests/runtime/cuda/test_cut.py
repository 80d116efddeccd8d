"""Windows cut by the kernel, compiled for this machine, against scaling.py: equal bit by bit."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from fakes.fake_pycuda import fake_device
from hypothesis import given
from hypothesis import strategies as st

from mfnet_runtime.contract import ImageRule
from mfnet_runtime.cuda.kernels import (
    DSM_VALID,
    IMAGE_VALID,
    PLACEMENT,
    Kernels,
    Piece,
    Placements,
)
from mfnet_runtime.scene.normalize import DsmRange, padded, scaled_dsm, scaled_image
from mfnet_runtime.scene.reader import SceneData

Array = npt.NDArray[Any]
HOSTILE = (np.nan, np.inf, -np.inf, -0.0, 1e-45, -1e-40, 0.1, 255.0, 65519.9, 65520.0, -3e38)
SPANS = (
    DsmRange(240.0, 360.0),
    DsmRange(0.0, 0.0),  # constant
    DsmRange(-0.1, 0.3),
    DsmRange(100.0, 100.00001),
    DsmRange(0.0, 1e-42),
    DsmRange(-1e38, 2e38),
)


@dataclass(frozen=True)
class Case:
    """A scene, and windows to cut from it."""

    rows: SceneData
    window: int
    offsets: list[tuple[int, int]]
    rule: ImageRule
    span: DsmRange
    dtype: str


def random_case(
    seed: int, height: int, width: int, window: int, stored: str, dtype: str, hostile: bool
) -> Case:
    rng = np.random.default_rng(seed)
    image: Array
    if stored == "float32":
        image = rng.uniform(-10, 300, (3, height, width)).astype(np.float32)
    else:
        top = np.iinfo(stored).max
        image = rng.integers(0, top, (3, height, width), stored, endpoint=True)
        image[rng.random(image.shape) < 0.1] = top
    dsm = rng.uniform(200, 400, (height, width)).astype(np.float32)
    if hostile:
        for array in (image, dsm) if stored == "float32" else (dsm,):
            place = rng.random(array.shape) < 0.3
            array[place] = rng.choice(HOSTILE, place.sum())
    valid = rng.random((2, height, width)) < rng.choice([0.0, 0.5, 1.0])
    last = max(height - window, 0), max(width - window, 0)
    offsets = [tuple(rng.integers(0, last, endpoint=True).tolist()) for _ in range(3)]
    return Case(
        SceneData(image, dsm, *valid),
        window,
        [*offsets, last],
        ImageRule(full_scale=float(rng.choice([1.0, 255.0, 65535.0, 3e-3]))),
        SPANS[rng.integers(len(SPANS))],
        dtype,
    )


def expected(case: Case) -> tuple[Array, Array]:
    """The windows by numpy, as the runtime cuts them."""
    side = case.window
    image = scaled_image(case.rows.image, case.rows.image_valid, case.rule)
    dsm = scaled_dsm(case.rows.dsm, case.rows.dsm_valid, case.span)[None]
    cuts = [
        [padded(plane[:, row : row + side, column : column + side], side) for plane in (image, dsm)]
        for row, column in case.offsets
    ]
    images, dsms = zip(*cuts, strict=True)
    return np.stack(images).astype(case.dtype), np.stack(dsms).astype(case.dtype)


def cut(case: Case, spare: int = 0) -> tuple[Array, Array]:
    """The windows by the kernel, from a ring that has `spare` rows more than it needs."""
    rows, side = case.rows, case.window
    height, width = rows.dsm.shape
    starts = [row for row, _ in case.offsets]
    held = range(min(starts), min(max(starts) + side, height))
    slots = len(held) + spare
    mask = rows.image_valid * np.uint8(IMAGE_VALID) + rows.dsm_valid * np.uint8(DSM_VALID)
    host = np.array([(*offset, 0, 0) for offset in case.offsets], PLACEMENT)
    shapes = [(3, slots, width), (slots, width), (slots, width)]
    with fake_device() as (device, fake):
        pointers = []
        for plane, shape in zip((rows.image, rows.dsm, mask), shapes, strict=True):
            memory = device.buffer(int(np.prod(shape)) * plane.itemsize)
            ring = fake.machine.array(memory.pointer, shape, plane.dtype)
            for row in held:
                ring[..., row % slots, :] = plane[..., row, :]
            pointers.append(memory.pointer)
        placements = device.buffer(host.nbytes)
        fake.machine.array(placements.pointer, host.shape, PLACEMENT)[:] = host
        outs = [(len(host), bands, side, side) for bands in (3, 1)]
        image, dsm = (
            device.buffer(int(np.prod(shape)) * np.dtype(case.dtype).itemsize) for shape in outs
        )
        stored, (first, second, third) = rows.image.dtype, pointers
        piece = Piece(first, second, third, stored, slots, height, width, case.rule, case.span)
        stream = device.stream()
        Kernels(device, side, case.dtype).cut(
            piece, Placements(host, placements.pointer), image.pointer, dsm.pointer, stream
        )
        stream.synchronize()
        found = [
            fake.machine.array(memory.pointer, shape, case.dtype).copy()
            for memory, shape in zip((image, dsm), outs, strict=True)
        ]
    return found[0], found[1]


def assert_same(found: Array, wanted: Array) -> None:
    """Equal but for which of the NaNs it is, and of the zeros: numpy 1 clips -0.0 to 0.0."""
    same = (found == wanted) | (np.isnan(found) & np.isnan(wanted))
    assert same.all(), f"{found[~same][:5]} instead of {wanted[~same][:5]}"


def check(case: Case, spare: int = 0) -> None:
    with np.errstate(all="ignore"):
        wanted = expected(case)
    for found, reference in zip(cut(case, spare), wanted, strict=True):
        assert_same(found, reference)


@given(
    seed=st.integers(0, 1 << 32),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    window=st.integers(1, 24),
    stored=st.sampled_from(["uint8", "uint16", "float32"]),
    dtype=st.sampled_from(["float16", "float32"]),
    hostile=st.booleans(),
    spare=st.integers(0, 9),
)
def test_windows_are_those_of_numpy(
    seed: int,
    height: int,
    width: int,
    window: int,
    stored: str,
    dtype: str,
    hostile: bool,
    spare: int,
) -> None:
    check(random_case(seed, height, width, window, stored, dtype, hostile), spare)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("span", SPANS)
def test_every_height_of_note(span: DsmRange, dtype: str) -> None:
    """Also where numbers round, overflow or are not numbers."""
    case = random_case(0, 64, 64, 64, "float32", dtype, hostile=True)
    everywhere = np.ones((64, 64), np.bool_)
    rows = replace(case.rows, image_valid=everywhere, dsm_valid=everywhere)
    check(replace(case, rows=rows, span=span))


@pytest.mark.parametrize("stored", ["uint8", "uint16"])
@pytest.mark.parametrize("full_scale", [255.0, 10_000.0, 65535.0, 2047.0])
def test_every_pixel_value(stored: str, full_scale: float) -> None:
    values = np.arange(1 << 16, dtype=np.uint32).astype(stored).reshape(1, 256, 256)
    case = random_case(0, 256, 256, 256, stored, "float16", hostile=False)
    rows = replace(case.rows, image=values.repeat(3, axis=0), image_valid=np.ones((256, 256), bool))
    check(replace(case, rows=rows, rule=ImageRule(full_scale=full_scale), offsets=[(0, 0)]))


@pytest.mark.parametrize("size", [(1, 1), (1, 32), (32, 1), (2, 3), (5, 100), (100, 5), (31, 31)])
def test_scenes_smaller_than_a_window(size: tuple[int, int]) -> None:
    check(random_case(1, *size, 32, "uint8", "float16", hostile=False))


def test_every_half_is_rounded_as_numpy_does() -> None:
    """All FP16 numbers and what lies between them, ties and those too small included."""
    halves = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float32)
    ties = (halves[:-1] + halves[1:]) / 2
    near = np.concatenate([np.nextafter(ties, np.float32(0)), np.nextafter(ties, np.float32(9e9))])
    values = np.resize(np.concatenate([halves, ties, near]), (3, 208, 208))
    everywhere = np.ones((208, 208), np.bool_)
    rows = SceneData(values, values[0] / 7, everywhere, everywhere)
    check(Case(rows, 208, [(0, 0)], ImageRule(full_scale=1.0), DsmRange(0.0, 1.0), "float16"))


def test_no_windows_are_no_launch() -> None:
    case = random_case(0, 8, 8, 8, "uint8", "float32", hostile=False)
    with fake_device() as (device, fake):
        piece = Piece(0, 0, 0, np.dtype("uint8"), 8, 8, 8, case.rule, case.span)
        Kernels(device, 8, "float32").cut(
            piece, Placements(np.zeros(0, PLACEMENT), 0), 0, 0, device.stream()
        )
        assert not [call for call in fake.machine.calls if "Launch" in call]
