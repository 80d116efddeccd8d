"""How many windows go into one call of the backend: as asked, its best, or found by timing.

Real calls are timed, so nothing is inferred for the choice alone. Knows no scenes and no engines.
"""

from __future__ import annotations

from mfnet_runtime.backends.base import Batches
from mfnet_runtime.errors import ResourceError, UsageError
from mfnet_runtime.tiling.options import AskedBatch

CANDIDATES = (1, 2, 4, 8)  # windows; larger ones were never faster on a CPU (benchmarks/TRIED.md)
ROUNDS = 3  # times in a row each is tried; the first, which prepares for a shape, does not count
SLACK = 1.02  # a smaller batch this much slower at most is taken: it needs less memory

ANY_BATCH = Batches()


class BatchSize:
    """The batch of a run; one object serves all its scenes, so that the choice is made once.

    One thread may ask (`following`) while another tells (`took`, `smaller`).

    Args:
        asked: Windows a call; None takes the backend's best, and less where memory is short; `auto`
            times several on the first calls and keeps the fastest.
        batches: Of the backend.

    Raises:
        UsageError: more are asked for than the backend takes.
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
        self._trials = [size for size in candidates for _ in range(ROUNDS)]  # still to ask for
        self._start = self._asked or batches.best
        # falls when the backend refuses
        self._limit = max(candidates, default=self._start)
        self._calls = dict.fromkeys(candidates, 0)
        self._fastest: dict[int, float] = {}  # batch: seconds a window

    @property
    def largest(self) -> int:
        """No batch will be larger."""
        return self._limit

    @property
    def timed(self) -> bool:
        """Whether any batch was timed; else the one chosen is a guess."""
        return bool(self._fastest)

    @property
    def chosen(self) -> int:
        """The batch that is best as far as is known."""
        known = list(self._fastest.items())  # another thread may be in `took`
        timed = {size: took for size, took in known if size <= self._limit}
        if not timed:
            return min(self._start, self._limit)
        best = min(timed.values())
        return min(size for size, took in timed.items() if took <= best * SLACK)

    def following(self) -> int:
        """Windows that the next batch should have."""
        while self._trials:
            if (size := self._trials.pop(0)) <= self._limit:
                return size
        return self.chosen

    def took(self, windows: int, seconds: float) -> None:
        """Note that a call with so many windows took so long."""
        if windows not in self._calls:
            return
        self._calls[windows] += 1
        if self._calls[windows] > 1:
            each = seconds / windows
            self._fastest[windows] = min(each, self._fastest.get(windows, each))

    def smaller(self, windows: int, fault: ResourceError) -> int:
        """The batch to take after the backend refused one of so many windows.

        Raises:
            ResourceError: the batch was asked for, or a single window was refused.
        """
        if self._asked and self._asked > 1:
            raise ResourceError(
                f"{fault}; --batch {self._asked} does not fit: use a smaller --batch, or auto"
            ) from fault
        if windows == 1:
            raise fault
        self._limit = min(self._limit, windows // 2)
        return self._limit
