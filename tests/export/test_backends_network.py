"""Every backend on a real, small, exported network, against PyTorch."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np
import pytest

from mfnet.model.torch_backend import TorchBackend
from mfnet_runtime.backends import RUNS, backend_from_file
from mfnet_runtime.backends.base import Feed

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


def furthest(one: np.ndarray, other: np.ndarray) -> float:
    """Largest difference, as a share of the range."""
    return float(np.abs(one - other).max() / np.ptp(other))


@pytest.mark.parametrize("batch", [1, 4])
def test_fp32_gives_the_logits_of_pytorch(made: Made, name: str, batch: int) -> None:
    with (
        TorchBackend(made.network, made.contract) as reference,
        backend_from_file(made.onnx, name, threads=1, batch=batch) as backend,
    ):
        assert backend.precision == "fp32"
        for count in (1, 3, 4):
            found, expected = (each.infer(feed(count))["logits"] for each in (backend, reference))
            assert furthest(found, expected) < 1e-5


def test_logits_of_a_window_do_not_depend_on_the_batch(made: Made, name: str) -> None:
    given = feed(4)
    with backend_from_file(made.onnx, name, threads=2, batch=4) as backend:
        whole = backend.infer(given)["logits"].copy()
        for index in range(4):
            alone = backend.infer({key: array[index : index + 1] for key, array in given.items()})
            assert furthest(alone["logits"], whole[index : index + 1]) < 1e-6


def test_bf16_is_close_but_not_equal(made: Made) -> None:
    openvino = pytest.importorskip("openvino")
    if "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this CPU has no native BF16")
    given = feed(4)
    with (
        backend_from_file(made.onnx, "openvino", threads=1) as exact,
        backend_from_file(made.onnx, "openvino", threads=1, precision="bf16") as rounded,
    ):
        assert rounded.precision == "bf16"
        away = furthest(rounded.infer(given)["logits"], exact.infer(given)["logits"])
    assert 1e-4 < away < 0.1
