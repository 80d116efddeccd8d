"""The batch size: the fastest that fits, found by timing, or the one asked for."""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping

import pytest

from mfnet_runtime.backends.base import Batches
from mfnet_runtime.errors import ResourceError, UsageError
from mfnet_runtime.tiling.batch_size import CANDIDATES, ROUNDS, BatchSize
from mfnet_runtime.tiling.options import AskedBatch


def tried(sizes: BatchSize, seconds: Mapping[int, float], first: float = 0.0) -> list[int]:
    """Run all trials of an engine that takes so many seconds a window, `first` more for a shape
    other than that of the call before; returns what was asked.
    """
    asked = [sizes.following() for _ in range(len(CANDIDATES) * ROUNDS)]
    last = 0
    for size in asked:
        sizes.took(size, size * seconds[size] + (first if size != last else 0.0))
        last = size
    return asked


@pytest.mark.parametrize(
    ("seconds", "first", "chosen"),
    [
        ({1: 4.0, 2: 3.0, 4: 2.0, 8: 2.5}, 0.0, 4),
        ({1: 4.0, 2: 2.01, 4: 2.0, 8: 1.99}, 0.0, 2),  # of nearly equal ones the smallest
        ({1: 4.0, 2: 1.0, 4: 2.0, 8: 3.0}, 1e3, 2),  # what a change of shape takes is ignored
    ],
)
def test_the_fastest_is_chosen_and_kept(
    seconds: dict[int, float], first: float, chosen: int
) -> None:
    sizes = BatchSize("auto")
    assert set(tried(sizes, seconds, first)) == set(CANDIDATES)
    assert sizes.chosen == chosen
    assert {sizes.following() for _ in range(20)} == {chosen}


def test_nothing_timed_yet() -> None:
    sizes = BatchSize("auto")
    assert sizes.chosen in CANDIDATES
    sizes.took(1, 1.0)
    assert not sizes.timed, "the first call of a size does not count"
    sizes.took(1, 1.0)
    assert sizes.timed


def test_a_thread_may_ask_while_another_reports_times() -> None:
    faults: list[Exception] = []

    def ask() -> None:
        try:
            while not done.is_set():
                sizes.following()
        except Exception as fault:
            faults.append(fault)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(300):
            sizes, done = BatchSize("auto"), threading.Event()
            for _ in range(len(CANDIDATES) * ROUNDS):
                sizes.following()
            asking = threading.Thread(target=ask)
            asking.start()
            for size in CANDIDATES * 2:
                sizes.took(size, 1.0)
            done.set()
            asking.join()
    finally:
        sys.setswitchinterval(interval)
    assert faults == []


def test_a_fixed_size_never_changes() -> None:
    sizes = BatchSize(3)
    for _ in range(2):
        sizes.took(4, 0.001)
    assert {sizes.following() for _ in range(40)} == {3}
    assert (sizes.chosen, sizes.largest) == (3, 3)


def test_a_refusal_never_raises_the_limit() -> None:
    """A batch that was filled before the limit fell may be refused after it did."""
    sizes = BatchSize("auto")
    assert sizes.smaller(2, ResourceError("no memory")) == 1
    assert sizes.smaller(8, ResourceError("no memory")) == 1
    assert sizes.largest == 1


@pytest.mark.parametrize("asked", ["auto", None, 1])
def test_one_window_that_does_not_fit_is_the_engines_fault(asked: AskedBatch) -> None:
    fault = ResourceError("no memory")
    with pytest.raises(ResourceError) as caught:
        BatchSize(asked).smaller(1, fault)
    assert caught.value is fault


def test_unless_asked_it_is_the_backends_best_and_less_where_memory_is_short() -> None:
    sizes = BatchSize(None, Batches(best=8, largest=16))
    assert (sizes.following(), sizes.largest) == (8, 8)
    assert sizes.smaller(8, ResourceError("no memory")) == 4
    assert (sizes.following(), sizes.chosen, sizes.largest) == (4, 4, 4)


def test_auto_tries_what_the_backend_takes() -> None:
    few = BatchSize("auto", Batches(best=2, largest=3))
    assert {few.following() for _ in range(20)} == {1, 2, 3}
    many = BatchSize("auto", Batches(best=16, largest=32))
    asked = {many.following() for _ in range((len(CANDIDATES) + 2) * ROUNDS)}
    assert asked == {*CANDIDATES, 16, 32}


def test_more_than_the_backend_takes_is_refused_naming_both() -> None:
    with pytest.raises(UsageError, match=r"--batch 17: the model takes at most 16 windows"):
        BatchSize(17, Batches(best=8, largest=16))
    assert BatchSize(16, Batches(best=8, largest=16)).largest == 16
