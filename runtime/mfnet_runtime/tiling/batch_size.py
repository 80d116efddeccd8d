"""The batch size of a run: as asked, the backend's preference, or the fastest by timing.

The calls that are timed are those of the run itself; none is made for the choice alone.
"""

from __future__ import annotations

from mfnet_runtime.backends.base import Batches
from mfnet_runtime.errors import ResourceError, UsageError
from mfnet_runtime.tiling.options import AskedBatch

CANDIDATES = (1, 2, 4, 8)  # windows; larger ones were never faster on a CPU (benchmarks/TRIED.md)
ROUNDS = 3  # calls in a row of each size; the first, which sets up the shape, is not timed
SLACK = 1.02  # a smaller batch may be this much slower, since it needs less memory

ANY_BATCH = Batches()


class BatchSize:
    """Chooses the batch size of a run; shared by all its scenes, so that it is chosen once.

    One thread may call `following` while another calls `took` and `smaller`.

    Args:
        asked: Windows a call. None starts with the backend's preference and steps down where memory
            is short; `auto` times several sizes in the first calls and keeps the fastest.
        batches: The backend's preferred and largest batch.

    Raises:
        UsageError: the backend does not take a batch of that size.
    """

    def __init__(self, asked: AskedBatch = None, batches: Batches = ANY_BATCH) -> None:
        if isinstance(asked, int) and batches.largest is not None and asked > batches.largest:
            raise UsageError(
                f"--batch {asked}: the model takes at most {batches.largest} windows a call; use "
                f"--batch {batches.largest} or less, or build it for larger batches"
            )
        self._asked = asked if isinstance(asked, int) else None
        known = {*CANDIDATES, batches.best, batches.largest or 1} if asked == "auto" else set()
        candidates = sorted(size for size in known if size <= (batches.largest or size))
        self._trials = [size for size in candidates for _ in range(ROUNDS)]  # sizes still to try
        self._start = self._asked or batches.best
        self._limit = max(candidates, default=self._start)  # falls when memory runs out
        self._calls = dict.fromkeys(candidates, 0)
        self._fastest: dict[int, float] = {}  # batch: seconds a window

    @property
    def largest(self) -> int:
        """Upper bound of all following batches."""
        return self._limit

    @property
    def timed(self) -> bool:
        """True once a batch was timed; until then `chosen` is a guess."""
        return bool(self._fastest)

    @property
    def chosen(self) -> int:
        """The best batch as far as is known."""
        known = list(self._fastest.items())  # a copy: another thread may be in `took`
        timed = {size: took for size, took in known if size <= self._limit}
        if not timed:
            return min(self._start, self._limit)
        best = min(timed.values())
        return min(size for size, took in timed.items() if took <= best * SLACK)

    def following(self) -> int:
        """Return the number of windows that the next batch should have."""
        while self._trials:
            if (size := self._trials.pop(0)) <= self._limit:
                return size
        return self.chosen

    def took(self, windows: int, seconds: float) -> None:
        """Record the time of a call."""
        if windows not in self._calls:
            return
        self._calls[windows] += 1
        if self._calls[windows] > 1:
            each = seconds / windows
            self._fastest[windows] = min(each, self._fastest.get(windows, each))

    def smaller(self, windows: int, fault: ResourceError) -> int:
        """Return the batch to try after the backend ran out of memory with `windows`.

        Raises:
            ResourceError: the batch was asked for explicitly, or a single window does not fit.
        """
        if self._asked and self._asked > 1:
            raise ResourceError(
                f"{fault}; --batch {self._asked} does not fit: use a smaller --batch, or auto"
            ) from fault
        if windows == 1:
            raise fault
        self._limit = min(self._limit, windows // 2)
        return self._limit
