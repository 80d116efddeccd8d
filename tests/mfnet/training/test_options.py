"""The learning rate at each step, and recipes out of range."""

from __future__ import annotations

from typing import Any

import pytest

from mfnet.training.options import TrainConfig
from mfnet_runtime.errors import UsageError


@pytest.mark.parametrize(
    ("epoch", "lr"), [(1, 1e-2), (24, 1e-2), (25, 1e-3), (34, 1e-3), (35, 1e-4), (45, 1e-5)]
)
def test_multistep_drops_at_the_start_of_each_milestone(epoch: int, lr: float) -> None:
    assert TrainConfig().lr_at(epoch - 1, 500) == pytest.approx(lr)


def test_cosine_rises_and_falls_to_zero() -> None:
    recipe = TrainConfig(optimizer="adamw", schedule="cosine", lr=1.0, epochs=10, steps=100)
    rates = [recipe.lr_at(epoch, step) for epoch in range(10) for step in range(100)]
    assert rates[0] == pytest.approx(1 / 30)
    assert max(rates) == pytest.approx(1.0, abs=1e-3)
    assert rates.index(max(rates)) in (29, 30)
    assert rates[30:] == sorted(rates[30:], reverse=True)
    assert rates[-1] < 1e-4


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 0),
        ("steps", -1),
        ("batch", 0),
        ("lr", float("nan")),
        ("optimizer", "lion"),
        ("schedule", "step"),
        ("clip", -1.0),
        ("stride", 0),
    ],
)
def test_recipes_out_of_range_are_refused(name: str, value: Any) -> None:
    with pytest.raises(UsageError, match=name):
        TrainConfig(**{name: value})
