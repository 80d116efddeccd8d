"""Reading ahead and writing behind: order, items in flight, and failures of every stage."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from mfnet_runtime.tiling.prefetch import read_ahead, write_behind

pytestmark = pytest.mark.usefixtures("_no_thread_is_left")


def run(
    read: Callable[[int], None],
    work: Callable[[int], None],
    write: Callable[[int], None],
    count: int = 12,
) -> None:
    def items() -> Iterator[int]:
        for index in range(count):
            read(index)
            yield index

    with read_ahead(items()) as ahead, write_behind(write) as put:
        for item in ahead:
            work(item)
            put(item)


def test_every_item_is_processed_once_and_in_order() -> None:
    worked: list[int] = []
    written: list[int] = []
    run(lambda _: None, worked.append, written.append, 200)
    assert worked == written == list(range(200))


def test_at_most_three_items_are_in_flight() -> None:
    """The promise that lets a caller use three buffers in turn."""
    begun: list[int] = []
    written: list[int] = []

    def read(index: int) -> None:
        time.sleep(0.001 * (index % 3))
        begun.append(index)
        assert len(begun) - len(written) <= 3

    def write(index: int) -> None:
        time.sleep(0.001 * (index % 2))
        written.append(index)

    run(read, lambda _: time.sleep(0.001), write, 60)


@pytest.mark.parametrize("stage", [0, 1, 2])
@pytest.mark.parametrize("at", [0, 5, 11])
@pytest.mark.parametrize("fault", [ValueError("x"), KeyboardInterrupt("x")])
def test_a_fault_of_any_stage_is_raised_in_the_caller(
    stage: int, at: int, fault: BaseException
) -> None:
    last: list[int] = []

    def fail(index: int) -> None:
        last.append(index)
        if index == at:
            raise fault

    stages: list[Callable[[int], None]] = [lambda _: None] * 3
    stages[stage] = fail
    with pytest.raises(type(fault)) as caught:
        run(stages[0], stages[1], stages[2])
    assert caught.value is fault
    assert max(last) == at, "no item follows a fault"


def test_an_interrupted_caller_waits_for_reads_and_writes_in_progress() -> None:
    reading, writing = threading.Event(), threading.Event()

    def slow(done: threading.Event) -> Callable[[int], None]:
        def step(index: int) -> None:
            if index:
                time.sleep(0.05)
                done.set()

        return step

    def leave(index: int) -> None:
        if index == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(slow(reading), leave, slow(writing))
    assert reading.is_set()
    assert writing.is_set()
