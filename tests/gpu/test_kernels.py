"""The CUDA kernels against numpy, bit by bit. `tests/runtime/cuda` compiles them for the CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from kernel_cases import BOTH, check_blend, check_cut, finish, random_case

from mfnet_runtime.tiling.classes import classes_from_logits, confidence_from_logits
from mfnet_runtime.tiling.grid import WindowGrid
from mfnet_runtime.tiling.options import BLENDS, BlendName

if TYPE_CHECKING:
    from gpu.conftest import Gpu

WINDOW = 32
SIZES = ((75, 90), (20, 41), (1, 1))  # rows, columns: larger and smaller than a window
TYPES = ("float16", "float32")


@pytest.mark.parametrize("stored", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("dtype", TYPES)
def test_windows_are_cut_and_scaled(gpu: Gpu, stored: str, dtype: str) -> None:
    with gpu.device.current():
        for seed, size in enumerate(SIZES * 4):
            case = random_case(seed, *size, WINDOW, stored, dtype, hostile=seed % 2 == 1)
            check_cut(gpu.device, case, spare=seed)


@pytest.mark.parametrize("blend", BLENDS)
@pytest.mark.parametrize("dtype", TYPES)
def test_logits_are_blended_and_become_classes(gpu: Gpu, blend: BlendName, dtype: str) -> None:
    with gpu.device.current():
        for seed, size in enumerate(SIZES):
            check_blend(gpu.device, WindowGrid(*size, WINDOW, 12), blend, dtype, seed=seed, batch=5)


@pytest.mark.parametrize("spread", [0.01, 1.0, 30.0, 1e30])
def test_confidence(gpu: Gpu, spread: float) -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, spread, (6, 7, 90)).astype(np.float32)
    mask = rng.integers(0, BOTH, (7, 90), np.uint8, endpoint=True)
    with gpu.device.current():
        classes, confidence, not_finite = finish(gpu.device, logits, mask, range(1000, 1007), 8)
    np.testing.assert_array_equal(classes, classes_from_logits(logits, mask == BOTH))
    wanted = confidence_from_logits(logits, mask == BOTH)
    assert np.abs(confidence.astype(int) - wanted).max() <= 1  # exponentials round differently
    assert not not_finite


def test_a_logit_that_is_not_finite_is_flagged(gpu: Gpu) -> None:
    logits = np.zeros((3, 4, 70), np.float32)
    logits[1, 2, 65] = np.nan
    with gpu.device.current():
        assert finish(gpu.device, logits, np.full((4, 70), BOTH, np.uint8), range(4), 4)[2]
