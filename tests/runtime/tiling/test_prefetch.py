"""Stages that work at the same time: overlap, bounds, order, and every way to fail."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator

import pytest

from mfnet_runtime.tiling.prefetch import Stages

Item = list[int]
Take = Callable[[], Item]
Fill = Callable[[Take], Iterator[Item]]
Drain = Callable[[Item], None]


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    assert [thread for thread in threading.enumerate() if thread.name.startswith("mfnet-")] == []


def counting(count: int, pause: float = 0.0) -> Callable[[Take], Iterator[Item]]:
    """A fill that numbers its items."""

    def fill(take: Take) -> Iterator[Item]:
        for index in range(count):
            item = take()
            time.sleep(pause)
            item[:] = [index]
            yield item

    return fill


def run(count: int, fill: Fill, drain: Drain, work: Drain = lambda item: None) -> None:
    """All items through all stages."""
    empties: list[Item] = [[] for _ in range(count)]
    with Stages(empties, fill, drain) as stages:
        for item in stages:
            work(item)
            stages.put(item)


def test_every_item_passes_every_stage_once_and_in_order() -> None:
    worked: list[int] = []
    drained: list[int] = []
    run(
        3,
        counting(200),
        lambda item: drained.append(item[0]),
        lambda item: worked.append(item[0]),
    )
    assert worked == drained == list(range(200))


def test_three_stages_take_the_time_of_one() -> None:
    pause, count = 0.03, 12
    started = time.perf_counter()

    def rest(item: Item) -> None:
        time.sleep(pause)

    run(3, counting(count, pause), rest, rest)
    assert time.perf_counter() - started < 2 * pause * count  # one after the other: 3


def test_fill_runs_no_further_ahead_than_there_are_items() -> None:
    filled: list[int] = []

    def fill(take: Take) -> Iterator[Item]:
        for index in range(10):
            item = take()
            filled.append(index)
            yield item

    ahead: list[int] = []

    def work(item: Item) -> None:
        time.sleep(0.02)
        ahead.append(len(filled) - len(ahead))

    run(2, fill, lambda item: None, work)
    assert len(filled) == 10
    assert max(ahead) <= 2


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_fault_of_fill_is_raised_once(count: int) -> None:
    def fill(take: Take) -> Iterator[Item]:
        for _ in range(count):
            yield take()
        raise OSError("damaged")

    with pytest.raises(OSError, match="damaged"):
        run(2, fill, lambda item: None)


@pytest.mark.parametrize("last", [0, 4, 9])
def test_a_fault_of_drain_stops_all(last: int) -> None:
    """Also one in the very last item, when nobody iterates any more."""

    def drain(item: Item) -> None:
        if item[0] == last:
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        run(3, counting(10), drain)


@pytest.mark.parametrize("fault", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_fault_of_the_caller_stops_all_and_drains_no_more(fault: type[BaseException]) -> None:
    drained: list[int] = []

    def drain(item: Item) -> None:
        time.sleep(0.05)
        drained.append(item[0])

    def work(item: Item) -> None:
        if item[0] == 3:
            raise fault

    with pytest.raises(fault):
        run(4, counting(1000), drain, work)
    assert len(drained) <= 2


def test_a_caller_that_leaves_early_is_no_fault() -> None:
    drained: list[int] = []
    empties: list[Item] = [[], []]
    with Stages(empties, counting(50), lambda item: drained.append(item[0])) as stages:
        for item in stages:
            stages.put(item)
            break
    assert drained == [0]


def test_a_waiting_caller_learns_of_a_fault_of_drain() -> None:
    """A drain that fails while the caller waits for fill wakes the caller."""

    def fill(take: Take) -> Iterator[Item]:
        yield take()
        time.sleep(0.1)
        yield take()

    def drain(item: Item) -> None:
        raise OSError("disk full")

    started = time.perf_counter()
    with pytest.raises(OSError, match="disk full"):
        run(3, fill, drain)
    assert time.perf_counter() - started < 1


@pytest.mark.parametrize("stage", ["fill", "work", "drain"])
def test_a_fault_leaves_the_items_to_nobody(stage: str) -> None:
    """A run of many scenes would else hold the batches of each one that failed."""

    class Room(list[int]):
        pass

    def fails(where: str) -> None:
        if where == stage:
            raise OSError(where)

    def fill(take: Take) -> Iterator[Item]:
        item = take()
        fails("fill")
        yield item

    def attempt(items: list[Item]) -> None:
        with Stages(items, fill, lambda item: fails("drain")) as stages:
            for item in stages:
                fails("work")
                stages.put(item)

    room = Room()
    left = weakref.ref(room)
    gc.disable()
    try:
        with pytest.raises(OSError, match=stage) as caught:
            attempt([room])
        del room, caught
        assert left() is None
    finally:
        gc.enable()


INTERRUPTED = """
import faulthandler, signal, threading, time
from mfnet_runtime.tiling.prefetch import Stages

faulthandler.enable()
drained = []

def fill(take):
    yield take()

def interrupt():
    for _ in range(3):
        time.sleep(0.05)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

def drain(item):
    impatient.start()
    time.sleep(0.4)
    drained.append(1)

impatient = threading.Thread(target=interrupt)
try:
    with Stages([[], []], fill, drain) as stages:
        for item in stages:
            stages.put(item)
except KeyboardInterrupt:
    impatient.join()
    print(drained, [thread.name for thread in threading.enumerate()])
"""


def test_interrupts_in_a_row_leave_no_thread() -> None:
    """In a process of its own: signals are for a whole process, engines of other tests included."""
    ended = subprocess.run(
        [sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 0, ended.stderr
    # what was under way was finished first
    assert ended.stdout == "[1] ['MainThread']\n", ended.stderr
