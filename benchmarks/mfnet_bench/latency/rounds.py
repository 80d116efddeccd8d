"""Interleaved rounds, and medians of paired ratios.

A shared machine drifts by tens of percent within minutes. So every engine runs once in each round,
in an order that changes from round to round, and ratios are taken within a round before the median
over rounds: what slows down a whole round cancels out.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable, Mapping, Sequence
from statistics import fmean, median
from typing import TypeVar

Key = TypeVar("Key", bound=Hashable)
Turn = Callable[[], Sequence[float]]  # runs an engine for a while and returns what was measured
Samples = Mapping[int, Sequence[float]]  # by round


class DroppedError(Exception):
    """An engine cannot go on; the others do."""


def interleave(
    turns: Mapping[Key, Turn], rounds: Sequence[int]
) -> dict[Key, dict[int, Sequence[float]]]:
    """Give every engine one turn in each round.

    Args:
        turns: What to run; one that raises DroppedError is left out from then on.
        rounds: Their numbers, which decide the orders.

    Returns:
        The samples of each engine by round.
    """
    taken: dict[Key, dict[int, Sequence[float]]] = {key: {} for key in turns}
    dropped: set[Key] = set()
    for number in rounds:
        for key in order_of_round(list(turns), number):
            if key in dropped:
                continue
            try:
                taken[key][number] = turns[key]()
            except DroppedError:
                dropped.add(key)
    return taken


def order_of_round(keys: Sequence[Key], number: int) -> list[Key]:
    """Shuffle the keys by the round's number, so that no engine always follows the same other."""
    order = list(keys)
    random.Random(number).shuffle(order)
    return order


def paired_ratio(baseline: Samples, samples: Samples) -> float | None:
    """Return how many times as fast as a baseline: the median of the ratios of shared rounds."""
    shared = sorted(baseline.keys() & samples.keys())
    if not shared:
        return None
    return median(fmean(baseline[number]) / fmean(samples[number]) for number in shared)


def pool(samples: Samples) -> list[float]:
    """Return the samples of all rounds, in order."""
    return [value for number in sorted(samples) for value in samples[number]]
