"""Give tasks to workers, one at a time each, and again to others where a worker fails.

A worker has one task at a time, so that its death is blamed on that task alone.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Protocol
from uuid import uuid4

from mfnet_runtime.backends.base import Backend
from mfnet_runtime.errors import ResourceError, SceneError
from mfnet_runtime.run.executors.base import Done
from mfnet_runtime.run.executors.worker import Answer, Opener, Order, absolute, facts_of
from mfnet_runtime.run.task import Task
from mfnet_runtime.tiling.memory import process_memory

DEATHS = 2  # of workers, until their task is given up

logger = logging.getLogger(__name__)


class Workers(Protocol):
    """Other processes that do tasks."""

    def ready(self) -> list[str]:
        """Return the names of all workers that have the model, busy ones included.

        Raises:
            UsageError: before the first task, a worker is not fit.
            ResourceError: the workers are gone for good.
        """
        ...

    def start(self, worker: str, task: Task) -> None:
        """Give a task to a free worker."""
        ...

    def answers(self) -> Iterable[tuple[str, Answer | None]]:
        """Wait for a second or until a task ends; None for one whose worker has died."""
        ...


def order_for(first: Task, opener: Opener, backend: Backend, threads: int) -> Order:
    """Write a token into the output folder, and say what workers must have.

    The memory of each is logged: what this process has, which has the model open, too, and what
    the pixels of the first block need.
    """
    token = first.folder.parent / f".token-{uuid4().hex}"
    token.touch()
    here, pixels = (-(-size >> 20) for size in (process_memory(), first.memory))
    logger.info(
        "each worker needs about %d MB of memory: %d MB for the model, as in this process, and %d "
        "MB for pixels",
        here + pixels,
        here,
        pixels,
    )
    needed = (token, first.scene.image, first.scene.dsm)
    files = tuple(path.absolute() for path in needed if isinstance(path, Path))
    return Order(opener, facts_of(backend), files, threads)


def with_first(tasks: Iterable[Task]) -> tuple[Task | None, Iterator[Task]]:
    """Return the first task, if any, and all."""
    rest = iter(tasks)
    first = next(rest, None)
    return first, iter(()) if first is None else chain([first], rest)


def dispatch(
    workers: Workers, tasks: Iterator[Task], tick: Callable[[int], None]
) -> Generator[Done]:
    """Do tasks; see `Executor.run`.

    While all workers are busy, tasks are planned ahead; a worker gets one of these before the
    receipt of its last one is taken, so that it does not wait while a scene is finished.
    """
    ahead: deque[Task] = deque()
    busy: dict[str, Task] = {}
    deaths: Counter[Path] = Counter()
    unfit: dict[str, ResourceError] = {}
    working = None

    def start(name: str) -> None:
        busy[name] = ahead.popleft()
        workers.start(name, absolute(busy[name]))

    while True:
        ready = workers.ready()
        if working is not bool(ready):
            working = bool(ready)
            logger.info("%s", f"{len(ready)} workers" if ready else "waiting for workers")
        free = [name for name in ready if name not in busy and name not in unfit]
        if ready and unfit.keys() >= set(ready):
            raise next(reversed(unfit.values()))
        for name in free:
            if not ahead:
                ahead.extend(islice(tasks, 1))
            if ahead:
                start(name)
        if free and not busy:
            return
        if len(ahead) < len(ready):
            ahead.extend(islice(tasks, 1))
        for name, answer in workers.answers():
            task = busy.pop(name)
            if isinstance(answer, ResourceError):
                logger.warning("%s gets no more tasks: %s", name, answer)
                unfit[name] = answer
                ahead.append(task)
                continue
            if answer is None:
                deaths[task.path] += 1
                label = f"{task.scene.image}: block {task.path.stem}"
                if deaths[task.path] < DEATHS:
                    logger.warning("%s: %s has died, or was lost; done again", label, name)
                    ahead.append(task)
                    continue
                answer = SceneError(
                    f"{label}: {DEATHS} workers died while they did it, the last on {name}; look "
                    "at their memory and their logs"
                )
            elif ahead:
                start(name)
            tick(len(task.grid))
            yield task, answer
