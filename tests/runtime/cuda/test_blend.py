"""Logits blended and finished by the kernels, compiled for this machine, against `tiling.blend`."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from fakes.fake_pycuda import fake_device
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_cases import BOTH, check_blend, finish

from mfnet_runtime.cuda.device import CudaDevice
from mfnet_runtime.cuda.kernels import PLACEMENT, Kernels, Placements, Shares, Sums
from mfnet_runtime.tiling.classes import classes_from_logits, confidence_from_logits
from mfnet_runtime.tiling.grid import WindowGrid
from mfnet_runtime.tiling.options import BLENDS, BlendName


@pytest.fixture
def device() -> Iterator[CudaDevice]:
    with fake_device() as (device, _):
        yield device


@settings(max_examples=40)
@given(
    seed=st.integers(0, 1 << 32),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    window=st.integers(4, 16),
    part=st.integers(1, 4),
    blend=st.sampled_from(BLENDS),
    dtype=st.sampled_from(["float16", "float32"]),
    batch=st.integers(1, 9),
    spare=st.integers(0, 5),
)
def test_sums_and_classes_are_those_of_the_mosaic(
    seed: int,
    height: int,
    width: int,
    window: int,
    part: int,
    blend: BlendName,
    dtype: str,
    batch: int,
    spare: int,
) -> None:
    grid = WindowGrid(height, width, window, max(1, window // part))
    with fake_device() as (device, _):
        check_blend(device, grid, blend, dtype, seed=seed, batch=batch, spare=spare)


@pytest.mark.parametrize("rows", [range(0, 7), range(5, 12), range(1000, 1007)])
@pytest.mark.parametrize("spread", [0.01, 1.0, 30.0, 1e30])
def test_classes_and_confidence(device: CudaDevice, rows: range, spread: float) -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, spread, (6, 7, 90)).astype(np.float32)
    mask = rng.integers(0, BOTH, (7, 90), np.uint8, endpoint=True)
    classes, confidence, not_finite = finish(device, logits, mask, rows, 8)
    np.testing.assert_array_equal(classes, classes_from_logits(logits, mask == BOTH))
    wanted = confidence_from_logits(logits, mask == BOTH)
    np.testing.assert_array_equal(confidence == 255, mask != BOTH)
    assert np.abs(confidence.astype(int) - wanted).max() <= 1
    assert np.mean(confidence == wanted) > 0.99  # ties apart: exponentials differ in the last bit
    assert not not_finite


def test_of_equal_logits_the_first_class_wins(device: CudaDevice) -> None:
    logits = np.random.default_rng(0).integers(-1, 1, (5, 4, 50)).astype(np.float32)
    logits[0] = np.where(logits[0] == 0, -0.0, logits[0])  # equal to 0 too
    mask = np.full((4, 50), BOTH, np.uint8)
    classes, _, _ = finish(device, logits, mask, range(4), 4)
    np.testing.assert_array_equal(classes, logits.argmax(axis=0))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("class_index", [0, 2])
@pytest.mark.parametrize("valid", [True, False])
def test_a_logit_that_is_not_finite_is_flagged(
    device: CudaDevice, value: float, class_index: int, valid: bool
) -> None:
    """Under nodata too, as on the host."""
    logits = np.zeros((3, 4, 70), np.float32)
    logits[class_index, 2, 65] = value
    mask = np.full((4, 70), BOTH if valid else 0, np.uint8)
    assert finish(device, logits, mask, range(4), 4)[2]


def test_confidence_is_the_softmax(device: CudaDevice) -> None:
    logits = np.log(np.array([0.626, 0.3, 0.074], np.float32)).reshape(3, 1, 1)
    _, confidence, _ = finish(device, logits, np.full((1, 1), BOTH, np.uint8), range(1), 1)
    assert confidence.item() == 63
    assert confidence_from_logits(logits, np.ones((1, 1), bool)).item() == 63


def test_a_ring_too_small_for_a_batch_is_a_bug(device: CudaDevice) -> None:
    host = np.array([(0, 0, 0, 0), (8, 0, 1, 0)], PLACEMENT)
    kernels = Kernels(device, 8, "float32")
    with pytest.raises(AssertionError):
        kernels.blend(Sums(0, 2, 15, 16, 8), Shares(0, 0), Placements(host, 0), 0, device.stream())
