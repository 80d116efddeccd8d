"""The one thread that uses the model, and the requests that wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import TypeVar

from mfnet_runtime.tiling.pipeline import Tick

T = TypeVar("T")


class _AbandonedError(Exception):
    """Nobody waits for the result any more."""


class Worker:
    """Runs work in one thread, first come, first served.

    Args:
        count: Called with the number of windows just inferred or skipped.
    """

    def __init__(self, count: Callable[[int], object]) -> None:
        self._count = count
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="mfnet-serve")

    async def run(self, work: Callable[[Tick], T]) -> T:
        """Wait for the thread, and for the result of work in it.

        If the waiting task is cancelled, waiting work is dropped, and running work ends with its
        next call of `tick`.

        Args:
            work: Takes `tick`, to be called with the number of windows just done.
        """
        abandoned = Event()

        def tick(done: int) -> None:
            if abandoned.is_set():
                raise _AbandonedError
            self._count(done)

        try:
            return await asyncio.wrap_future(self._pool.submit(work, tick))
        finally:
            abandoned.set()

    def close(self) -> None:
        """Wait for running work to end."""
        self._pool.shutdown(cancel_futures=True)
