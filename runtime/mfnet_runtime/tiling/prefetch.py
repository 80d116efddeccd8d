"""Read ahead and write behind: two threads around a loop, one item each.

A loop over `read_ahead(items)` that hands its results to `write_behind(work)` has three items at a
time: the next one is computed and the previous one written while the caller works on its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")

IN_FLIGHT = 3  # items: one computed ahead, the caller's, one written behind
_END: Any = object()


@contextmanager
def read_ahead(items: Iterable[T]) -> Iterator[Iterator[T]]:
    """Iterate over items of which the next is computed in a thread.

    A fault of the thread is raised where its item was expected. No thread outlives the block.
    """
    with _thread("mfnet-read") as thread:
        iterator = iter(items)

        def ahead() -> Iterator[T]:
            future = thread.submit(next, iterator, _END)
            while (item := future.result()) is not _END:
                future = thread.submit(next, iterator, _END)
                yield item

        yield ahead()


@contextmanager
def write_behind(work: Callable[[T], object]) -> Iterator[Callable[[T], None]]:
    """Yield a function that runs `work` on an item in a thread, after its previous item is done.

    A fault of the thread is raised by the next call, or when the block is left without one. No
    thread outlives the block.
    """
    with _thread("mfnet-write") as thread:
        pending: Future[object] | None = None

        def put(item: T) -> None:
            nonlocal pending
            if pending is not None:
                pending.result()
            pending = thread.submit(work, item)

        yield put
        if pending is not None:
            pending.result()


@contextmanager
def _thread(name: str) -> Iterator[ThreadPoolExecutor]:
    """Start a thread; a Ctrl-C while it starts would otherwise let it outlive the block."""
    with ThreadPoolExecutor(1, name) as thread:
        thread.submit(bool).result()
        yield thread
