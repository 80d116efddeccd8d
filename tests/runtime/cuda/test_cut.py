"""Windows cut by the kernel, compiled for this machine, against `normalize`: equal bit by bit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from fakes.fake_pycuda import fake_device
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_cases import SPANS, Case, check_cut, random_case

from mfnet_runtime.contract import ImageRule
from mfnet_runtime.cuda.kernels import PLACEMENT, Kernels, Piece, Placements
from mfnet_runtime.scene.normalize import DsmRange
from mfnet_runtime.scene.reader import SceneData


def check(case: Case, spare: int = 0) -> None:
    with fake_device() as (device, _):
        check_cut(device, case, spare)


@settings(max_examples=60)
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
