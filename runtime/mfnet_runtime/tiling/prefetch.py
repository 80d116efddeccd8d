"""Three stages that work at the same time: fill, the caller's own, drain. Knows no scenes.

A few items, allocated once, go round: `fill` writes into empty ones, the caller works on full
ones, `drain` takes those worked on and they are empty again. Their number bounds how far any
stage runs ahead. Fill and drain have a thread each and meet every item in the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from queue import SimpleQueue
from threading import Event, Thread
from types import TracebackType
from typing import Generic, TypeVar

T = TypeVar("T")


class _Stopped(Exception):
    """Unwinds a stage that nobody waits for any more."""


class Stages(Generic[T]):
    """Iterate over it for full items and hand each back with `put`, inside a `with` block.

    The first fault of a stage is raised in the caller, by the iteration or by leaving the block;
    a fault of the caller stops the stages. Either way no thread outlives the block.

    Args:
        items: What goes round, all empty; two keep one thread busy, more even out bursts.
        fill: Given a function that waits for an empty item, yields full ones.
        drain: Takes an item that was worked on.
    """

    def __init__(
        self,
        items: Iterable[T],
        fill: Callable[[Callable[[], T]], Iterator[T]],
        drain: Callable[[T], None],
    ) -> None:
        # None wakes whoever waits: it means the end, or that the stages were stopped.
        self._empty: SimpleQueue[T | None] = SimpleQueue()
        self._full: SimpleQueue[T | None] = SimpleQueue()
        self._worked: SimpleQueue[T | None] = SimpleQueue()
        for item in items:
            self._empty.put(item)
        self._fill = fill
        self._drain = drain
        self._stopped = False
        self._fault: BaseException | None = None
        # Waited for before `join`, which once interrupted may take a thread for ended (Python 3.11)
        self._filled, self._drained = Event(), Event()
        stages = (
            ("fill", self._filling, self._filled),
            ("drain", self._draining, self._drained),
        )
        self._threads = [
            Thread(target=self._guarded, args=(stage, end), name=f"mfnet-{name}", daemon=True)
            for name, stage, end in stages
        ]

    def __enter__(self) -> Stages[T]:
        try:
            for thread in self._threads:
                thread.start()
        except BaseException:  # an interrupt may fall in here, and __exit__ never run
            self._stop()
            raise
        return self

    def __iter__(self) -> Iterator[T]:
        while (item := self._full.get()) is not None and self._fault is None:
            yield item
        if self._fault is not None:
            raise self._fault

    def put(self, item: T) -> None:
        """Hand on an item that was worked on."""
        self._worked.put(item)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                self._worked.put(None)
                self._drained.wait()
        finally:
            self._stop()
        try:
            if error is None and self._fault is not None:
                raise self._fault
        finally:
            self._fault = None  # its traceback holds us: together they would keep the items

    def _stop(self) -> None:
        """End both threads; what they are doing at the moment is done first.

        Another interrupt has to wait for that too: what they read and write is closed next.
        """
        self._wake()
        interrupt: BaseException | None = None
        for thread, end in zip(self._threads, (self._filled, self._drained), strict=True):
            while thread.ident is not None and not end.is_set():
                try:
                    end.wait()
                except BaseException as fault:
                    interrupt = fault
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()
        if interrupt is not None:
            raise interrupt

    def _wake(self) -> None:
        self._stopped = True
        for queue in (self._empty, self._full, self._worked):
            queue.put(None)

    def _guarded(self, stage: Callable[[], None], end: Event) -> None:
        try:
            stage()
        except _Stopped:
            pass
        except BaseException as fault:  # raised again in the caller
            if self._fault is None:
                self._fault = fault
            self._wake()
        finally:
            end.set()

    def _filling(self) -> None:
        for item in self._fill(self._take_empty):
            self._full.put(item)
        self._full.put(None)

    def _take_empty(self) -> T:
        item = self._empty.get()
        if item is None or self._stopped:
            raise _Stopped
        return item

    def _draining(self) -> None:
        while (item := self._worked.get()) is not None and not self._stopped:
            self._drain(item)
            self._empty.put(item)
