"""A GPU acted in host memory, as unkind as CUDA allows. Knows no PyCUDA.

Work that is enqueued runs when somebody waits, or at some call before, or long after: in any order
that streams and events leave open, drawn from a seed. Half the seeds are lazy: nothing is done that
nobody waits for. A page-locked array is read and written when
its copy runs. So a wait that is missing, or memory used again too early, gives a wrong answer under
some seed. Fresh and freed memory holds garbage; writes beside it are found.
"""

from __future__ import annotations

import random
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

GUARD = 4096  # bytes on either side of an allocation
ALIGNMENT = 256  # bytes; CUDA's own
GARBAGE = 0xCD
FREED = 0xDB
Bytes = npt.NDArray[np.uint8]


class OutOfMemory(Exception):
    """An allocation was refused."""


class Lost(Exception):
    """The GPU failed; the words are CUDA's."""


class Misused(Exception):
    """A call was wrong; the words are CUDA's."""


@dataclass
class Mark:
    """One recording of an event; `at` counts the work done before, None before it happened."""

    at: int | None = None


@dataclass
class Memory:
    """An allocation between its guards."""

    whole: Bytes
    offset: int  # of its first byte in `whole`
    size: int
    freed: bool = False

    @property
    def pointer(self) -> int:
        return int(self.whole.ctypes.data) + self.offset

    @property
    def inside(self) -> Bytes:
        return self.whole[self.offset : self.offset + self.size]

    def intact(self) -> bool:
        outside = np.concatenate([self.whole[: self.offset], self.whole[self.offset + self.size :]])
        return bool((outside == GARBAGE).all())


Work = Callable[[], object]
Step = Work | Mark  # a Mark in a queue happens when it is its turn


@dataclass
class Queue:
    """The work of a stream still to be done: each with the mark it waits for, if any."""

    steps: deque[tuple[Mark | None, Step | None]] = field(default_factory=deque)


class CudaMachine:
    """Memory, streams, contexts and faults of one GPU.

    Args:
        seed: Of the order in which work is done.

    Attributes:
        calls: Names of all calls, in order, up to the loss of the GPU.
        calls_after_loss: Those that came all the same.
        refuse_allocation: Which allocation fails, counted from 0 over both kinds of memory.
        largest_allocation: Bytes; larger ones fail.
        lose_at: Which call finds the GPU lost, counted from 0.
        pop_fails: Whether a context of a lost GPU cannot even be popped.
        wrongs: What PyCUDA or CUDA would have punished: warnings, aborts, damaged memory.
    """

    def __init__(self, seed: int = 0) -> None:
        self.calls: list[str] = []
        self.calls_after_loss: list[str] = []
        self.refuse_allocation: int | None = None
        self.largest_allocation: int | None = None
        self.lose_at: int | None = None
        self.pop_fails = False
        self.wrongs: list[str] = []
        self.lost = False
        self.allocations = 0
        self.done = 0  # pieces of work
        self.lock = threading.RLock()
        self._random = random.Random(seed)
        self._lazy = self._random.random() < 0.5
        self._queues: dict[int, Queue] = {}  # by the stream's handle
        self._handles = iter(range(0x1000, 1 << 30, 0x10))
        self._memory: dict[int, Memory] = {}  # by pointer, device and page-locked

    # calls and faults

    def call(self, name: str) -> None:
        """Note a call; some work may get done just now.

        Raises:
            Lost: the GPU is lost, or just now.
        """
        if self.lost:
            self.calls_after_loss.append(name)
            raise Lost("an illegal memory access was encountered")
        self.calls.append(name)
        if self.lose_at is not None and len(self.calls) > self.lose_at:
            self.lost = True
            raise Lost("unspecified launch failure")
        if not self._lazy and self._random.random() < 0.2:
            for _ in range(self._random.randrange(4)):
                self._do_any()

    # memory

    def allocate(self, size: int) -> int:
        """Pointer to memory full of garbage."""
        if size < 1:
            raise Misused("invalid argument")
        index, self.allocations = self.allocations, self.allocations + 1
        if index == self.refuse_allocation or size > (self.largest_allocation or size):
            raise OutOfMemory("out of memory")
        whole = np.full(size + 2 * GUARD + ALIGNMENT, GARBAGE, np.uint8)
        offset = GUARD + -(int(whole.ctypes.data) + GUARD) % ALIGNMENT
        memory = Memory(whole, offset, size)
        self._memory[memory.pointer] = memory
        return memory.pointer

    def free(self, pointer: int) -> None:
        """Waits for all work, as CUDA does. The memory stays, as garbage, to be safe to touch."""
        self.finish()
        memory = self._memory[pointer]
        assert not memory.freed
        memory.freed = True
        memory.inside[:] = FREED
        if not memory.intact():
            self.wrongs.append(f"memory beside an allocation of {memory.size} bytes was written")

    def memory(self, pointer: int, size: int) -> Bytes:
        """The bytes of an allocation from `pointer` on.

        Raises:
            Lost: they are not all of one allocation: an illegal address.
        """
        for memory in self._memory.values():
            start = pointer - memory.pointer
            if 0 <= start <= memory.size - size and not memory.freed:
                return memory.inside[start : start + size]
        self.lost = True
        raise Lost("an illegal memory access was encountered")

    def array(self, pointer: int, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Any:
        """An array over device memory."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return self.memory(pointer, size).view(dtype).reshape(shape)

    def held(self) -> int:
        """Bytes not freed."""
        return sum(memory.size for memory in self._memory.values() if not memory.freed)

    def owns(self, pointer: int) -> bool:
        """Whether page-locked, or device memory."""
        return any(
            0 <= pointer - memory.pointer < memory.size
            for memory in self._memory.values()
            if not memory.freed
        )

    # streams

    def open_stream(self) -> int:
        handle = next(self._handles)
        self._queues[handle] = Queue()
        return handle

    def close_stream(self, handle: int) -> None:
        self._do_until(lambda: not self._queues[handle].steps, handle)
        del self._queues[handle]

    def enqueue(self, handle: int, work: Work) -> None:
        """Add work to a stream; it runs in the stream's order, some time."""
        self._queue(handle).append((None, work))

    def record(self, handle: int) -> Mark:
        mark = Mark()
        self._queue(handle).append((None, mark))
        return mark

    def wait(self, handle: int, mark: Mark) -> None:
        """Later work of the stream is done only after the mark."""
        self._queue(handle).append((mark, None))

    def synchronize(self, handle: int) -> None:
        end = self.record(handle)
        self.reach(end)

    def reach(self, mark: Mark) -> None:
        """Do work until the mark has happened."""
        self._do_until(lambda: mark.at is not None, self._holder(mark))

    def finish(self) -> None:
        """Do all work."""
        self._do_until(lambda: not any(queue.steps for queue in self._queues.values()), None)

    def _queue(self, handle: int) -> deque[tuple[Mark | None, Step | None]]:
        if handle not in self._queues:
            raise Misused("invalid resource handle")
        return self._queues[handle].steps

    def _holder(self, mark: Mark) -> int | None:
        for handle, queue in self._queues.items():
            if any(step is mark for _, step in queue.steps):
                return handle
        return None

    def _do_until(self, reached: Callable[[], bool], wanted: int | None) -> None:
        """Do work of any stream; if lazy, only what the stream `wanted` needs."""
        while not reached():
            if self._lazy and wanted is not None:
                self._do_for(wanted)
            else:
                assert self._do_any(), "streams wait for each other"

    def _do_any(self) -> bool:
        ready = [queue for queue in self._queues.values() if _ready(queue)]
        if not ready:
            return False
        self._do_one(self._random.choice(ready))
        return True

    def _do_for(self, handle: int) -> None:
        """One step of a stream, or of the one it waits for."""
        queue = self._queues[handle]
        awaited = queue.steps[0][0]
        while awaited is not None and awaited.at is None:
            holder = self._holder(awaited)
            assert holder is not None
            queue = self._queues[holder]
            awaited = queue.steps[0][0]
        self._do_one(queue)

    def _do_one(self, queue: Queue) -> None:
        _, step = queue.steps.popleft()
        if isinstance(step, Mark):
            step.at = self.done
        elif step is not None:
            self.done += 1
            step()

    def backwards(self) -> bool:
        """Whether the threads of a kernel run from the last to the first, this time."""
        return self._random.random() < 0.5


def _ready(queue: Queue) -> bool:
    if not queue.steps:
        return False
    awaited = queue.steps[0][0]
    return awaited is None or awaited.at is not None
