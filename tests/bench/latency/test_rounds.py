"""Interleaved rounds: order, medians of paired ratios, and engines that drop out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from mfnet_bench.latency.rounds import (
    DroppedError,
    Turn,
    interleave,
    order_of_round,
    paired_ratio,
)


def logged(log: list[str], name: str, values: Sequence[float]) -> Turn:
    left = list(values)

    def turn() -> list[float]:
        log.append(name)
        if not left:
            raise DroppedError
        return [left.pop(0)]

    return turn


def test_each_runs_once_a_round_in_changing_orders() -> None:
    log: list[str] = []
    names = "abcde"
    taken = interleave({name: logged(log, name, range(6)) for name in names}, range(6))
    rounds = [log[start : start + 5] for start in range(0, 30, 5)]
    assert all(sorted(order) == list(names) for order in rounds)
    assert len({tuple(order) for order in rounds}) > 3
    assert taken["c"] == {number: [number] for number in range(6)}


def test_no_engine_always_follows_the_same_one() -> None:
    before = Counter(
        order[order.index("a") - 1]
        for order in (order_of_round("abcd", number) for number in range(200))
        if order[0] != "a"
    )
    assert set(before) == set("bcd")
    assert max(before.values()) < 2 * min(before.values())
    assert order_of_round("abcd", 7) == order_of_round("abcd", 7)


def test_an_engine_that_drops_out_keeps_its_rounds_and_stops_no_other() -> None:
    log: list[str] = []
    turns = {"short": logged(log, "short", [1, 2]), "long": logged(log, "long", range(5))}
    taken = interleave(turns, range(5))
    assert sorted(taken["short"]) == [0, 1]
    assert len(taken["long"]) == 5
    assert log.count("short") == 3  # the third raised, and it was not asked again


def test_ratio_is_the_median_of_paired_ratios() -> None:
    """The machine is ten times as slow in round 1; the pairs do not see it, means would."""
    baseline = {0: [400.0, 600.0], 1: [5000.0], 2: [450.0]}  # means 500, 5000, 450
    cell = {0: [250.0], 1: [2500.0], 2: [90.0, 90.0], 3: [1.0]}  # round 3 has no pair
    assert paired_ratio(baseline, cell) == 2.0  # of 2, 2, 5
    assert paired_ratio(baseline, {}) is None
    assert paired_ratio(cell, cell) == 1.0
