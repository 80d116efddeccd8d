"""Engines in processes of their own, loaded, warmed up and ready for turns.

Knows no rounds and no baselines: the first engine that warms up gives the logits that all others
are compared with.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mfnet_bench.latency.networks import EngineSpec
from mfnet_bench.latency.process import EngineProcess, EngineRefusedError
from mfnet_bench.latency.rounds import DroppedError, Turn

TURN_S = 0.6  # seconds an engine runs in a round, at least one call
MAX_CALLS = 50  # in a turn
SPARE_MB = 1000  # of memory left free, beside one and a half times the largest engine so far

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Warm:
    """What is known of an engine before the rounds."""

    facts: dict[str, Any]  # what it said on loading
    calls: int  # of one turn
    ms: float  # of a window, roughly
    peak_rss_mb: float | None  # of its process
    agreement: float  # share of pixels of the reference's class
    logit_difference: float  # the largest, as a share of the range of the reference's logits


class Engines:
    """Opens engines and remembers what became of each.

    Args:
        windows: An npz of `image` (n, 3, S, S) and `dsm` (n, 1, S, S); logits go beside it.
        threads: Of each engine.
        tell: Told what is being loaded.
    """

    def __init__(self, windows: Path, threads: int, tell: Callable[[str], None]) -> None:
        self.threads = threads
        self.warm: dict[EngineSpec, Warm] = {}
        self.refused: dict[EngineSpec, str] = {}  # why it does not run
        self._windows, self._tell = windows, tell
        self._logits = windows.with_name("logits.npy")
        self._reference: Floats | None = None

    def opened(self, spec: EngineSpec) -> tuple[EngineProcess, Turn] | None:
        """Load an engine and warm it up.

        Returns:
            Its process, which the caller closes, and its turns; None where it is refused.
        """
        self._tell(f"loading {spec.path.name} in {spec.backend} {spec.asked}, batch {spec.batch}")
        try:
            process = EngineProcess(spec.to_json(self.threads, self._windows))
        except EngineRefusedError as fault:
            self.refused[spec] = str(fault)
            return None
        try:
            self.warm[spec] = self._warmed(process, spec)
        except BaseException as fault:
            process.close()
            if not isinstance(fault, EngineRefusedError):
                raise
            self.refused[spec] = str(fault)
            return None
        return process, self._turn(process, spec)

    def memory_left(self) -> bool:
        """Whether one more engine of the size of the largest so far fits."""
        free = available_mb()
        largest = max((warm.peak_rss_mb or 0.0 for warm in self.warm.values()), default=0.0)
        return free is None or free > 1.5 * largest + SPARE_MB

    def _warmed(self, process: EngineProcess, spec: EngineSpec) -> Warm:
        memory = process.ask("logits", out=str(self._logits))
        logits = np.load(self._logits)
        if not np.isfinite(logits).all():
            raise EngineRefusedError("its logits are not finite: what is fast here is not a result")
        if self._reference is None:
            self._reference = logits
        same, difference = compared_logits(self._reference, logits)
        (ms,) = process.ask("run", calls=1)["ms"]
        calls = ceil(TURN_S * 1000 / (ms * spec.batch))
        return Warm(
            facts=process.facts,
            calls=min(MAX_CALLS, max(1, calls)),
            ms=ms,
            peak_rss_mb=memory["peak_rss_mb"],
            agreement=same,
            logit_difference=difference,
        )

    def _turn(self, process: EngineProcess, spec: EngineSpec) -> Turn:
        def turn() -> Sequence[float]:
            try:
                times: list[float] = process.ask("run", calls=self.warm[spec].calls)["ms"]
            except EngineRefusedError as fault:
                self.refused[spec] = str(fault)
                raise DroppedError from fault
            return times

        return turn


def compared_logits(reference: Floats, found: Floats) -> tuple[float, float]:
    """Share of pixels of equal class, and the largest difference as a share of the range.

    Args:
        reference: (N, classes, row, column).
        found: The same shape.
    """
    same = float(np.mean(reference.argmax(axis=1) == found.argmax(axis=1)))
    span = float(reference.max() - reference.min())
    largest = float(np.abs(found.astype(np.float64) - reference).max())
    return same, largest / span if span else float(largest > 0)


def available_mb() -> float | None:
    """Memory that can still be had without swapping, in MB; None where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    found = (line.split()[1] for line in lines if line.startswith("MemAvailable"))
    kib = next(found, None)
    return None if kib is None else int(kib) * 1024 / 1e6
