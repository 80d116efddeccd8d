from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pytest

from mfnet.model.torch_backend import TorchBackend
from mfnet_export import compare
from mfnet_export.report import share_text
from mfnet_export.validation.parity import Gate, ParityReport
from mfnet_export.validation.sample_windows import Windows, sample_windows
from mfnet_runtime.backends import backend_from_file
from mfnet_runtime.backends.base import Arrays, Batches, Feed, specs_of
from mfnet_runtime.contract import Contract
from mfnet_runtime.labels import ClassTable

if TYPE_CHECKING:
    from export.conftest import Made

Logits = npt.NDArray[np.float32]
Change = Callable[[Logits], Logits]


class FakeBackend:
    """Gives a fixed function of the image as logits, then changes them."""

    name, device, precision, threads = "fake", "paper", "fp32", 1

    def __init__(self, change: Change = lambda logits: logits, classes: int = 3) -> None:
        self.contract = Contract(32, ClassTable.numbered(classes))
        self.inputs, self.outputs = specs_of(self.contract)
        self.batches, self.calls = Batches(), list[int]()
        self._change, self._classes = change, classes

    def infer(self, feed: Feed) -> Arrays:
        self.calls.append(len(feed["image"]))
        return {"logits": self._change(feed["image"][:, : self._classes] * 10)}

    def __enter__(self) -> FakeBackend:
        return self

    def __exit__(self, *raised: object) -> None:
        return None


def windows(count: int = 6) -> Windows:
    rng = np.random.default_rng(0)
    image = rng.random((count, 3, 32, 32), np.float32)
    image[0, :, 0, 0] = (0.9, 0.5, 0.1)  # clear
    image[0, :, 0, 1] = (0.5, 0.50005, 0.1)  # a margin of 0.0005
    return Windows(image, np.zeros((count, 1, 32, 32), np.float32), "random")


def report(change: Change, gate: Gate = Gate()) -> ParityReport:  # noqa: B008  (frozen)
    return compare(FakeBackend(), FakeBackend(change), windows(), gate)


def at(column: int, cls: int, amount: float) -> Change:
    """Add to one logit in the first row of the first window."""

    def change(logits: Logits) -> Logits:
        logits = logits.copy()
        if logits[0, 0, 0, 0] == np.float32(9):  # only that window
            logits[0, cls, 0, column] += np.float32(amount)
        return logits

    return change


def test_equal_and_almost_equal_backends_pass() -> None:
    found = report(lambda logits: logits)
    assert found.passed
    assert (found.max_abs, found.mean_abs, found.agreement) == (0, 0, 1)
    assert found.clear_agreement == 1
    assert 0.99 < found.clear < 1
    assert 0 <= found.low < found.high <= 10
    found = report(lambda logits: logits + np.float32(5e-4))
    assert found.passed
    assert (found.max_abs, found.mean_abs) == pytest.approx((5e-4, 5e-4), rel=1e-2)


@pytest.mark.parametrize(
    "change", [lambda logits: logits + np.float32(2e-3), at(0, 1, 2e-3), at(0, 2, -2e-3)]
)
def test_a_large_difference_fails(change: Change) -> None:
    found = report(change)
    assert not found.passed
    assert found.agreement == 1  # no class changed
    assert "differ by up to 2.00e-03 (allowed 1.0e-03)" in found.failure()


def test_the_allowed_difference_shrinks_with_the_logits() -> None:
    """Logits with a range of 0.01 that are wrong by a tenth of it are within 1e-3."""
    small, smaller = (
        FakeBackend(lambda logits, scale=scale: logits * np.float32(scale))  # type: ignore[misc]
        for scale in (1e-3, 0.9e-3)
    )
    found = compare(small, smaller, windows())
    assert found.max_abs < 1e-3
    assert not found.passed
    assert compare(small, small, windows()).passed


def test_a_flipped_class_fails_where_it_is_clear() -> None:
    wide = Gate(max_abs=100, relative=10)
    assert not report(at(0, 1, 6), wide).passed
    near = report(at(1, 0, 7e-4), wide)  # flips a pixel whose margin is below 1e-3
    assert near.passed
    assert near.agreement < 1


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_fails(value: float) -> None:
    assert not report(at(0, 0, value)).passed
    assert not report(at(0, 0, value), Gate(max_abs=100, relative=10)).passed
    diverged = FakeBackend(lambda logits: np.full_like(logits, value))
    found = compare(diverged, diverged, windows())
    assert not found.passed
    assert "own logits are not finite" in found.failure()
    assert json.loads(json.dumps(found.to_json(), allow_nan=False))["max_abs"] is None


def test_batches_of_one_and_more_run() -> None:
    reference, candidate = FakeBackend(), FakeBackend()
    found = compare(reference, candidate, windows(8))
    assert reference.calls == candidate.calls == [1, 2, 3, 1, 1]
    assert (found.windows, found.batches) == (8, (1, 2, 3))
    # correct for a single window only
    assert not report(lambda logits: np.broadcast_to(logits[:1], logits.shape)).passed


def test_one_class_is_always_clear() -> None:
    found = compare(FakeBackend(classes=1), FakeBackend(classes=1), windows())
    assert (found.clear, found.clear_agreement, found.passed) == (1, 1, True)


def test_the_exported_file_passes_and_another_networks_does_not(made: Made) -> None:
    sample = sample_windows(made.contract, count=1)
    with backend_from_file(made.onnx, threads=1) as candidate:
        with TorchBackend(made.network, candidate.contract) as reference:
            found = compare(reference, candidate, sample)
            assert found.passed
            assert found.max_abs < 1e-4
            assert candidate.device in found.lines()[0]
        changed = made.network.decoder.p3.weights
        with TorchBackend(made.network, candidate.contract) as reference:
            changed.data += 1e-2
            try:
                assert not compare(reference, candidate, sample).passed
            finally:
                changed.data -= 1e-2
    assert sample.image.shape == (3, 3, 64, 64)


def test_lines_and_shares_never_round_up() -> None:
    assert [share_text(share) for share in (1, 0.99999999, 0.5, 0)] == [
        "100 %",
        "99.9999 %",
        "50.0000 %",
        "0.0000 %",
    ]
    facts: dict[str, Any] = report(at(0, 1, 2e-3)).to_json()
    assert facts["passed"] is False
    assert facts["gate"]["max_abs"] == 1e-3
