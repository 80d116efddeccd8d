"""Classes, confidence and probabilities of the same logits agree."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from mfnet_runtime.errors import ModelError
from mfnet_runtime.tiling import classes
from mfnet_runtime.tiling.classes import FinishedRows, classify

LOGITS = np.random.default_rng(0).normal(0, 3, (5, 40, 60)).astype(np.float32)
VALID = np.random.default_rng(1).random((40, 60)) > 0.2


def everything(logits: npt.NDArray[Any], valid: npt.NDArray[Any]) -> FinishedRows:
    return classify(logits, valid, confidence=True, probabilities=True, place=(7, 9))


def test_probabilities_are_the_softmax_and_confidence_is_the_largest() -> None:
    done = everything(LOGITS, VALID)
    assert done.confidence is not None
    assert done.probabilities is not None
    powers = np.exp(LOGITS.astype(np.float64))
    expected = np.rint(100 * powers / powers.sum(axis=0))
    np.testing.assert_array_equal(done.probabilities[:, VALID], expected[:, VALID])
    np.testing.assert_array_equal(done.confidence[VALID], expected.max(axis=0)[VALID])
    at_class = np.take_along_axis(expected, LOGITS.argmax(axis=0)[None], axis=0)[0]
    np.testing.assert_array_equal(done.confidence[VALID], at_class[VALID])


def test_masked_pixels_are_nodata_in_every_layer() -> None:
    done = everything(LOGITS, VALID)
    assert done.confidence is not None
    assert done.probabilities is not None
    for layer in (done.classes, done.confidence, *done.probabilities):
        np.testing.assert_array_equal(layer == 255, ~VALID)


def test_logits_far_apart_neither_overflow_nor_vanish() -> None:
    logits = np.array([1e5, -1e5, 1e5], np.float32).reshape(3, 1, 1)
    done = everything(logits, np.ones((1, 1), bool))
    assert done.confidence is not None
    assert done.probabilities is not None
    assert (done.confidence.item(), done.probabilities.ravel().tolist()) == (50, [50, 0, 50])


def test_result_does_not_depend_on_the_rows_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = everything(LOGITS, VALID)
    for pixels in (1, 60 * 7, 60 * 39):
        monkeypatch.setattr(classes, "PIXELS_AT_A_TIME", pixels)
        parts = everything(LOGITS, VALID)
        np.testing.assert_equal(vars(parts), vars(whole))


def test_logits_that_are_not_finite_are_refused_first() -> None:
    broken = np.where(VALID, LOGITS, np.float32(np.nan))
    with pytest.raises(ModelError, match="not finite"):
        everything(broken, VALID)
