from __future__ import annotations

from collections.abc import Collection

import pytest

from mfnet_export.precision.accuracy import Difference
from mfnet_export.precision.int8_search import (
    MAX_FLOAT,
    MAX_GROUPS,
    group_layers,
    search_float_layers,
)

KINDS = ["8x24", "8x8", "8x32", "32x8"] * 12
SIZES = [192, 64, 256, 256] * 12


def difference(error: float) -> Difference:
    return Difference(4, 1 - error / 100, error, 2 * error, 10.0)


class Errors:
    """Add the error of every layer in INT8; count the calls."""

    def __init__(self, errors: dict[int, float]) -> None:
        self.errors, self.asked = errors, 0

    def __call__(self, kept: Collection[int]) -> Difference:
        self.asked += 1
        return difference(sum(e for index, e in self.errors.items() if index not in kept))


def test_groups_hold_every_layer_once() -> None:
    groups = group_layers(KINDS, SIZES)
    assert len(groups) == MAX_GROUPS
    assert sorted(index for group in groups for index in group.layers) == list(range(48))
    assert sum(group.share for group in groups) == pytest.approx(1)
    assert groups[0].name == "8x24 no. 1-3 of 12"
    assert all(len({KINDS[index] for index in group.layers}) == 1 for group in groups)


def test_nothing_is_searched_if_all_int8_is_enough() -> None:
    measure = Errors({3: 0.4})
    found = search_float_layers(group_layers(KINDS, SIZES), measure, 0.995)
    assert (found.kept, measure.asked) == ((), 1)


def test_the_worst_layers_stay_float_and_no_more() -> None:
    measure = Errors({5: 3.0, 30: 2.0, 11: 0.2, 40: 0.1})
    found = search_float_layers(group_layers(KINDS, SIZES), measure, 0.99)
    assert {5, 30} <= found.layers
    assert len(found.kept) == 2
    assert found.difference.agreement == pytest.approx(0.997)
    assert measure.asked == 1 + MAX_GROUPS + 2


def test_cheap_layers_go_first() -> None:
    found = search_float_layers(group_layers(KINDS, SIZES), Errors({1: 1.0, 2: 1.1}), 0.988)
    assert [group.name for group in found.kept] == ["8x8 no. 1-3 of 12"]


def test_it_ends_before_most_is_float() -> None:
    measure = Errors(dict.fromkeys(range(48), 5.0))
    found = search_float_layers(group_layers(KINDS, SIZES), measure, 0.999)
    assert 0 < sum(group.share for group in found.kept) <= MAX_FLOAT
    assert found.difference.agreement < 0.999
