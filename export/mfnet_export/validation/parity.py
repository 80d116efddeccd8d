"""Whether two backends give the same logits: numbers, thresholds, verdict.

Knows neither what the backends run nor how it was made.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import cycle
from typing import Any

import numpy as np
import numpy.typing as npt

from mfnet_export.validation.sample_windows import Windows
from mfnet_runtime.backends.base import Backend

BATCHES = (1, 2, 3)  # sizes tried in turn: a graph may be right for one of them only


@dataclass(frozen=True)
class Gate:
    """What a candidate must keep to."""

    max_abs: float = 1e-3  # largest difference of a logit
    relative: float = 1e-4  # the same, as a share of the reference's range: some logits are tiny
    margin: float = 1e-3  # a pixel is clear if its two largest logits differ by more
    clear_agreement: float = 1.0  # least share of the clear pixels with the same class


FP32_GATE = Gate()


@dataclass(frozen=True)
class ParityReport:
    """Differences of a candidate's logits from the reference's."""

    reference: str  # backend and device
    candidate: str
    source: str  # of the windows
    windows: int
    batches: tuple[int, ...]  # batch sizes that ran
    max_abs: float  # of the difference; not finite where either's logits are not
    mean_abs: float
    low: float  # of the reference's logits
    high: float
    agreement: float  # share of all pixels with the same class
    clear: float  # share of all pixels whose class is clear in the reference
    clear_agreement: float  # share of those with the same class; 1 where there are none
    gate: Gate = FP32_GATE

    @property
    def allowed(self) -> float:
        """Largest difference the gate lets pass for logits of this range."""
        return min(self.gate.max_abs, self.gate.relative * (self.high - self.low))

    @property
    def passed(self) -> bool:
        """All thresholds kept; a logit that is not finite never passes."""
        return self.max_abs <= self.allowed and self.clear_agreement >= self.gate.clear_agreement

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types; None for what is not finite."""
        facts = {**asdict(self), "batches": list(self.batches), "passed": self.passed}
        lost = (
            key
            for key, fact in facts.items()
            if isinstance(fact, float) and not math.isfinite(fact)
        )
        return {**facts, **dict.fromkeys(lost)}

    def lines(self) -> list[str]:
        """The report for people."""
        batches = ", ".join(map(str, self.batches))
        return [
            f"{self.candidate} against {self.reference}",
            f"on {self.windows} windows ({self.source}), in batches of {batches}:",
            f"logits      {self.low:.4g} .. {self.high:.4g}",
            f"difference  at most {self.max_abs:.2e} (allowed {self.allowed:.1e}), "
            f"mean {self.mean_abs:.2e}",
            f"same class  {share_text(self.agreement)} of all pixels, "
            f"{share_text(self.clear_agreement)} of the {share_text(self.clear)} "
            f"with a margin above {self.gate.margin:.0e}",
        ]

    def failure(self) -> str:
        """Why it failed, with the numbers."""
        if not math.isfinite(self.low) or not math.isfinite(self.high):
            return "the checkpoint's own logits are not finite: its training diverged"
        return (
            f"logits differ by up to {self.max_abs:.2e} (allowed {self.allowed:.1e}) and "
            f"{share_text(self.clear_agreement)} of the clear pixels keep their class "
            f"(required {share_text(self.gate.clear_agreement)}), on {self.windows} windows"
        )


def compared(
    reference: Backend, candidate: Backend, windows: Windows, gate: Gate = FP32_GATE
) -> ParityReport:
    """Run both backends on the same windows in batches of 1, 2, 3, 1, ... that the candidate takes.

    Args:
        reference: Entered.
        candidate: Entered.
        windows: Some.
        gate: The thresholds.
    """
    sums = _Sums()
    sizes = set()
    for part in _batches(len(windows), candidate.batches.largest):
        # astype copies: logits are valid until the next call
        expected, found = (
            backend.infer(windows.feed(part, backend))["logits"].astype(np.float64)
            for backend in (reference, candidate)
        )
        sums.add(expected, found, gate.margin)
        sizes.add(len(expected))
    return ParityReport(
        reference=f"{reference.name} ({reference.device})",
        candidate=f"{candidate.name} ({candidate.device})",
        source=windows.source,
        windows=len(windows),
        batches=tuple(sorted(sizes)),
        max_abs=sums.max_abs,
        mean_abs=sums.total_abs / sums.values,
        low=sums.low,
        high=sums.high,
        agreement=sums.same / sums.pixels,
        clear=sums.clear / sums.pixels,
        clear_agreement=sums.clear_same / sums.clear if sums.clear else 1.0,
        gate=gate,
    )


def share_text(share: float) -> str:
    """A share in percent that reads "100 %" only if it is all."""
    return "100 %" if share == 1 else f"{math.floor(share * 1e6) / 1e4:.4f} %"


def _batches(count: int, largest: int | None) -> Iterator[slice]:
    start = 0
    for size in cycle([size for size in BATCHES if largest is None or size <= largest]):
        if start >= count:
            return
        yield slice(start, min(start + size, count))
        start += size


@dataclass
class _Sums:
    """What accumulates over batches; NaN, once there, stays."""

    max_abs: float = 0.0
    total_abs: float = 0.0
    low: float = math.inf
    high: float = -math.inf
    values: int = 0
    pixels: int = 0
    same: int = 0
    clear: int = 0
    clear_same: int = 0

    def add(
        self, expected: npt.NDArray[np.float64], found: npt.NDArray[np.float64], margin: float
    ) -> None:
        """Count one batch of logits (N, classes, row, column)."""
        with np.errstate(invalid="ignore"):  # infinity minus infinity
            difference = np.abs(found - expected)
            clear = _margin(expected) > margin
        self.max_abs = float(np.maximum(self.max_abs, difference.max()))
        self.total_abs += float(difference.sum())
        self.low = float(np.minimum(self.low, expected.min()))
        self.high = float(np.maximum(self.high, expected.max()))
        same = expected.argmax(axis=1) == found.argmax(axis=1)
        self.values += expected.size
        self.pixels += same.size
        self.same += int(same.sum())
        self.clear += int(clear.sum())
        self.clear_same += int((same & clear).sum())


def _margin(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Largest logit minus the second of each pixel, (N, row, column); infinite with one class."""
    if logits.shape[1] == 1:
        return np.full((len(logits), *logits.shape[2:]), np.inf)
    top = np.partition(logits, -2, axis=1)[:, -2:]
    return np.asarray(top[:, 1] - top[:, 0])
