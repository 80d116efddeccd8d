"""A GPU simulated in host memory, as unkind as CUDA allows.

Enqueued work runs when somebody waits for it, or at some earlier or much later call, in any order
that streams and events permit, drawn from a seed; under half of the seeds nothing runs that nobody
waits for. Page-locked arrays are read and written when their copy runs. So a missing wait, or
memory reused too early, gives a wrong answer under some seed. New and freed memory holds garbage,
and writes beside an allocation are noticed.
"""

from __future__ import annotations

import random
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

GUARD = 4096  # bytes on either side of an allocation
ALIGNMENT = 256  # bytes; CUDA's own
GARBAGE, FREED = 0xCD, 0xDB
Bytes = npt.NDArray[np.uint8]


class OutOfMemory(Exception):
    """An allocation was refused."""


class Lost(Exception):
    """The GPU failed; the text is CUDA's."""


class Misused(Exception):
    """A call was wrong; the text is CUDA's."""


@dataclass
class Mark:
    """One recording of an event; `at` counts the work done before it, None until it happens."""

    at: int | None = None


@dataclass
class Memory:
    """An allocation between its guards."""

    whole: Bytes
    offset: int  # of its first byte in `whole`
    size: int

    @property
    def pointer(self) -> int:
        return int(self.whole.ctypes.data) + self.offset

    @property
    def inside(self) -> Bytes:
        return self.whole[self.offset : self.offset + self.size]

    def intact(self) -> bool:
        outside = np.delete(self.whole, slice(self.offset, self.offset + self.size))
        return bool((outside == GARBAGE).all())


Step = Callable[[], object] | Mark | None
Queue = deque[tuple[Mark | None, Step]]  # the work of a stream, each with the mark it waits for


class CudaMachine:
    """Memory, streams and faults of one GPU.

    Args:
        seed: Decides the order of work.

    Attributes:
        calls: Names of all calls, in order, until the GPU is lost.
        calls_after_loss: Later calls.
        refuse_allocation: Index of the allocation that fails, over both kinds of memory.
        largest_allocation: Bytes; larger ones fail.
        lose_at: Index of the call that finds the GPU lost.
        pop_fails: True if the context of a lost GPU cannot even be popped.
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
        self._freed: list[Memory] = []

    def call(self, name: str) -> None:
        """Note a call; some work may run now.

        Raises:
            Lost: the GPU is lost, or gets lost here.
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

    def allocate(self, size: int) -> int:
        """Return a pointer to memory full of garbage."""
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
        """Finish all work, as CUDA does, and free memory; it stays mapped, full of garbage."""
        self.finish()
        memory = self._memory.pop(pointer)
        self._freed.append(memory)
        memory.inside[:] = FREED
        if not memory.intact():
            self.wrongs.append(f"memory beside an allocation of {memory.size} bytes was written")

    def memory(self, pointer: int, size: int) -> Bytes:
        """Return the bytes of an allocation from `pointer` on.

        Raises:
            Lost: they are not all in one allocation: an illegal address.
        """
        for at, memory in self._memory.items():
            start = pointer - at
            if 0 <= start <= memory.size - size:
                return memory.inside[start : start + size]
        self.lost = True
        raise Lost("an illegal memory access was encountered")

    def array(self, pointer: int, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Any:
        """View memory as an array."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return self.memory(pointer, size).view(dtype).reshape(shape)

    def held(self) -> int:
        """Return the number of bytes not freed."""
        return sum(memory.size for memory in self._memory.values())

    def owns(self, pointer: int) -> bool:
        """True for device and page-locked memory."""
        return any(0 <= pointer - at < memory.size for at, memory in self._memory.items())

    def open_stream(self) -> int:
        handle = next(self._handles)
        self._queues[handle] = deque()
        return handle

    def close_stream(self, handle: int) -> None:
        self._do_until(lambda: not self._queues[handle], handle)
        del self._queues[handle]

    def enqueue(self, handle: int, step: Step, after: Mark | None = None) -> None:
        """Add work to a stream, to be done after the work before it and after a mark."""
        if handle not in self._queues:
            raise Misused("invalid resource handle")
        self._queues[handle].append((after, step))

    def record(self, handle: int) -> Mark:
        mark = Mark()
        self.enqueue(handle, mark)
        return mark

    def reach(self, mark: Mark) -> None:
        """Do work until the mark has happened."""
        self._do_until(lambda: mark.at is not None, self._holder(mark))

    def finish(self) -> None:
        """Do all work."""
        self._do_until(lambda: not any(self._queues.values()), None)

    def backwards(self) -> bool:
        """Draw whether the threads of a kernel run from last to first."""
        return self._random.random() < 0.5

    def _holder(self, mark: Mark) -> int | None:
        """Return the stream in which a mark is still to happen."""
        for handle, queue in self._queues.items():
            if any(step is mark for _, step in queue):
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
        ready = [queue for queue in self._queues.values() if queue and not _blocked(queue)]
        if ready:
            self._do_one(self._random.choice(ready))
        return bool(ready)

    def _do_for(self, handle: int) -> None:
        """Do one step of a stream, or of the one it waits for."""
        queue = self._queues[handle]
        while _blocked(queue):
            awaited = queue[0][0]
            assert awaited is not None
            holder = self._holder(awaited)
            assert holder is not None
            queue = self._queues[holder]
        self._do_one(queue)

    def _do_one(self, queue: Queue) -> None:
        _, step = queue.popleft()
        if isinstance(step, Mark):
            step.at = self.done
        elif step is not None:
            self.done += 1
            step()


def _blocked(queue: Queue) -> bool:
    awaited = queue[0][0]
    return awaited is not None and awaited.at is None
