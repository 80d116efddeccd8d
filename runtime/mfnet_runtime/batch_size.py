"""How many windows go into one call of the backend: a fixed number, or one found by timing.

Real calls are timed, so nothing is inferred for the choice alone. Knows no scenes and no engines.
"""

from __future__ import annotations

from mfnet_runtime.errors import ResourceError

CANDIDATES = (1, 2, 4, 8)  # windows; larger ones were never faster (benchmarks/TRIED.md)
ROUNDS = 3  # times each is tried; the first is not counted: engines prepare for a new shape
DEFAULT = 4  # windows, until one is found
SLACK = 1.02  # a smaller batch this much slower at most is taken: it needs less memory


class BatchSize:
    """The batch of a run; one object serves all its scenes, so that the choice is made once.

    One thread may ask (`following`) while another tells (`took`, `smaller`).

    Args:
        fixed: Windows a call; None times `CANDIDATES` on the first calls and keeps the fastest.
    """

    def __init__(self, fixed: int | None = None) -> None:
        self.fixed = fixed
        self._trials = [] if fixed else list(CANDIDATES) * ROUNDS  # still to ask for
        self._limit = fixed or max(CANDIDATES)  # windows; falls when the backend refuses
        self._calls = dict.fromkeys(CANDIDATES, 0)
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
        if self.fixed:
            return self.fixed
        known = list(self._fastest.items())  # another thread may be in `took`
        timed = {size: took for size, took in known if size <= self._limit}
        if not timed:
            return min(DEFAULT, self._limit)
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
        if self.fixed and self.fixed > 1:
            raise ResourceError(
                f"{fault}; --batch {self.fixed} does not fit: use a smaller --batch, or auto"
            ) from fault
        if windows == 1:
            raise fault
        self._limit = min(self._limit, windows // 2)
        return self._limit
