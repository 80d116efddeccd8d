"""Workers that are processes of this machine."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, suppress
from threading import Thread
from typing import Any

from mfnet_runtime.backends.base import Backend
from mfnet_runtime.errors import MFNetError, ResourceError
from mfnet_runtime.run.executors.base import Done
from mfnet_runtime.run.executors.dispatch import dispatch, order_for, with_first
from mfnet_runtime.run.executors.worker import (
    Answer,
    ModelFile,
    Opener,
    Order,
    Station,
    open_station,
)
from mfnet_runtime.run.task import Task
from mfnet_runtime.tiling.batch_size import BatchSize

KILL = getattr(signal, "SIGKILL", signal.SIGTERM)

_stations: list[Station] = []  # of this process, if it is a worker


class ProcessExecutor:
    """Does tasks in processes of this machine.

    Args:
        workers: Their number.
        opener: Opens the model there; None for the file of the coordinator's backend.
        threads: Of each; 0 shares the physical cores.
    """

    def __init__(self, workers: int, opener: Opener | None = None, threads: int = 0) -> None:
        self.workers, self._opener, self._threads = workers, opener, threads

    def run(
        self,
        tasks: Iterable[Task],
        backend: Backend,
        sizes: BatchSize,
        tick: Callable[[int], None],
    ) -> Generator[Done]:
        """See `Executor.run`."""
        first, tasks = with_first(tasks)
        if first is None:
            return
        opener = self._opener or ModelFile.of(backend)
        order = order_for(first, opener, backend, self._threads)
        with closing(Processes(self.workers, order)) as processes:
            yield from dispatch(processes, tasks, tick)


class Processes:
    """Pools of one process each: when it dies, the pool is broken and the task known."""

    def __init__(self, count: int, order: Order) -> None:
        self._count, self._order = count, order
        self._pools: dict[str, ProcessPoolExecutor] = {}
        self._pids: dict[str, int] = {}
        self._running: dict[Future[Any], str] = {}

    def ready(self) -> list[str]:
        """See `Workers.ready`; dead processes are replaced."""
        missing = {f"process {index}" for index in range(1, self._count + 1)} - self._pools.keys()
        opening = {}
        for name in sorted(missing):
            pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _begin)
            self._pools[name] = pool
            opening[name] = pool.submit(_open, self._order, self._count)
        for name, future in opening.items():
            try:
                found = future.result()
            except BrokenProcessPool:
                raise ResourceError(
                    f"{name} died while it loaded the model; use fewer processes: each needs the "
                    "memory of a run of its own"
                ) from None
            if isinstance(found, MFNetError):
                raise found
            self._pids[name] = found
        return list(self._pools)

    def start(self, worker: str, task: Task) -> None:
        """See `Workers.start`."""
        try:
            future = self._pools[worker].submit(_attempt, task)
        except BrokenProcessPool:  # it died while it had none
            self._pools.pop(worker).shutdown()
            self.ready()
            future = self._pools[worker].submit(_attempt, task)
        self._running[future] = worker

    def answers(self) -> Iterator[tuple[str, Answer | None]]:
        """See `Workers.answers`."""
        for future in wait(self._running, timeout=1, return_when=FIRST_COMPLETED).done:
            name = self._running.pop(future)
            try:
                answer = future.result()
            except BrokenProcessPool:
                self._pools.pop(name).shutdown()
                answer = None
            yield name, answer

    def close(self) -> None:
        """End all processes, those at work at once."""
        for name in self._running.values():
            with suppress(ProcessLookupError):
                os.kill(self._pids[name], KILL)
        for pool in self._pools.values():
            pool.shutdown()


def _begin() -> None:
    """Leave Ctrl-C to the coordinator, and end when it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def follow() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    Thread(target=follow, name="mfnet-follow", daemon=True).start()


def _open(order: Order, neighbours: int) -> int | MFNetError:
    """Open the model in a worker; return its process id, or what is wrong."""
    found = open_station(order, neighbours)
    if isinstance(found, MFNetError):
        return found
    _stations.append(found)
    return os.getpid()


def _attempt(task: Task) -> Answer:
    return _stations[0].attempt(task)
