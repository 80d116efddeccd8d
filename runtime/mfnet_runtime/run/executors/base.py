"""The interface of an executor, and the one that does tasks in this process."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from typing import Protocol

from mfnet_runtime.backends.base import Backend
from mfnet_runtime.errors import SceneError
from mfnet_runtime.run.task import Receipt, Task, do
from mfnet_runtime.tiling.batch_size import BatchSize

Done = tuple[Task, Receipt | SceneError]  # a task, and its receipt or why it failed


class Executor(Protocol):
    """Does tasks; their receipts come in any order."""

    @property
    def workers(self) -> int:
        """How many tasks are done at the same time, as far as is known now."""
        ...

    def run(
        self,
        tasks: Iterable[Task],
        backend: Backend,
        sizes: BatchSize,
        tick: Callable[[int], None],
    ) -> Generator[Done]:
        """Do tasks; close the iterator to stop.

        Args:
            tasks: Taken one at a time, a few ahead: planning them may take time.
            backend: Of this process, entered. Workers use the same engine.
            sizes: Batch size of tasks done in this process.
            tick: Called with the number of windows just done.

        Raises:
            UsageError: a worker does not have the files, the model or the versions of this process.
            ResourceError: no worker has the disk space or memory, or the workers are gone for good.
            OSError: the same in this process.
        """
        ...


class LocalExecutor:
    """Does tasks one after the other in this process."""

    workers = 1

    def run(
        self,
        tasks: Iterable[Task],
        backend: Backend,
        sizes: BatchSize,
        tick: Callable[[int], None],
    ) -> Generator[Done]:
        """See `Executor.run`."""
        for task in tasks:
            done: Receipt | SceneError
            try:
                done = do(task, backend, sizes, tick)
            except SceneError as fault:
                done = fault
            yield task, done


LOCAL = LocalExecutor()
