"""Every CPU backend on a small exported network."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np
import pytest

from mfnet.model.torch_backend import TorchBackend
from mfnet_runtime.backends import RUNS, backend_from_file
from mfnet_runtime.backends.base import Feed
from mfnet_runtime.backends.openvino_cpu import openvino_core

if TYPE_CHECKING:
    from export.conftest import Made


@pytest.fixture(params=RUNS[".onnx", "cpu"])
def name(request: pytest.FixtureRequest) -> str:
    if find_spec(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    return str(request.param)


def feed(batch: int) -> Feed:
    rng = np.random.default_rng(batch)
    return {
        "image": rng.random((batch, 3, 64, 64), np.float32),
        "dsm": rng.random((batch, 1, 64, 64), np.float32),
    }


def error(found: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest difference relative to the range."""
    return float(np.abs(found - expected).max() / np.ptp(expected))


@pytest.mark.parametrize("batch", [1, 4])
def test_fp32_gives_the_logits_of_pytorch_in_any_batch(made: Made, name: str, batch: int) -> None:
    with (
        TorchBackend(made.network, made.contract) as reference,
        backend_from_file(made.onnx, name, threads=1, batch=batch) as backend,
    ):
        assert backend.precision == "fp32"
        for count in (1, 3, 4):
            given = feed(count)
            found, expected = (each.infer(given)["logits"].copy() for each in (backend, reference))
            assert error(found, expected) < 1e-5
        for index in range(4):
            alone = backend.infer({key: array[index : index + 1] for key, array in given.items()})
            assert error(alone["logits"], found[index : index + 1]) < 1e-6


def test_bf16_is_close_but_not_equal(made: Made) -> None:
    pytest.importorskip("openvino")
    if "BF16" not in openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this CPU has no native BF16")
    given = feed(4)
    with (
        backend_from_file(made.onnx, "openvino", threads=1) as exact,
        backend_from_file(made.onnx, "openvino", threads=1, precision="bf16") as rounded,
    ):
        assert rounded.precision == "bf16"
        found, expected = (each.infer(given)["logits"] for each in (rounded, exact))
    assert 1e-4 < error(found, expected) < 0.1
