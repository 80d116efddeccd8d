"""Interleaved rounds and medians of paired ratios. Knows neither engines nor networks.

A shared machine drifts by tens of percent within minutes. So every contestant runs once a round,
in an order that changes from round to round, and a ratio is taken inside each round before the
median over rounds is: what slows a whole round cancels.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable, Mapping, Sequence
from statistics import fmean, median
from typing import TypeVar

import numpy as np

Key = TypeVar("Key", bound=Hashable)
Turn = Callable[[], Sequence[float]]  # runs a contestant; milliseconds a window of each call
Samples = Mapping[int, Sequence[float]]  # by round


class DroppedError(Exception):
    """A contestant cannot go on; the others do."""


def interleaved(
    turns: Mapping[Key, Turn], rounds: Sequence[int], tick: Callable[[], None] = lambda: None
) -> dict[Key, dict[int, Sequence[float]]]:
    """Give every contestant one turn a round.

    Args:
        turns: What to run; one that raises DroppedError is out from then on.
        rounds: Their numbers, which decide the orders.
        tick: Called after each turn.

    Returns:
        The samples of each contestant by round.
    """
    taken: dict[Key, dict[int, Sequence[float]]] = {key: {} for key in turns}
    out: set[Key] = set()
    for number in rounds:
        for key in order_of_round(list(turns), number):
            if key not in out:
                try:
                    taken[key][number] = turns[key]()
                except DroppedError:
                    out.add(key)
            tick()
    return taken


def order_of_round(keys: Sequence[Key], number: int) -> list[Key]:
    """All keys once, shuffled by the round's number: no one always follows the same other."""
    order = list(keys)
    random.Random(number).shuffle(order)
    return order


def paired_ratio(baseline: Samples, cell: Samples) -> float | None:
    """How many times as fast the cell is: the median over shared rounds of the rounds' ratios."""
    shared = sorted(baseline.keys() & cell.keys())
    if not shared:
        return None
    return median(fmean(baseline[number]) / fmean(cell[number]) for number in shared)


def pooled(samples: Samples) -> list[float]:
    """The samples of all rounds, in their order."""
    return [value for number in sorted(samples) for value in samples[number]]


def percentile(values: Sequence[float], percent: float) -> float:
    """Linear between the two nearest ranks."""
    return float(np.percentile(values, percent))
