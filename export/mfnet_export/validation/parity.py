"""Comparison of the logits of two backends: differences, thresholds and verdict."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import cycle
from typing import Any

import numpy as np
import numpy.typing as npt

from mfnet_export.report import share_text
from mfnet_export.validation.sample_windows import Windows
from mfnet_runtime.backends.base import Backend

BATCHES = (1, 2, 3)  # tried in turn: a graph may be correct for one batch size only


@dataclass(frozen=True)
class Gate:
    """Thresholds that a candidate must meet."""

    max_abs: float = 1e-3  # largest difference of a logit
    relative: float = 1e-4  # the same relative to the reference's range, for small logits
    margin: float = 1e-3  # a pixel is clear if its two largest logits differ by more than this
    clear_agreement: float = 1.0  # least share of the clear pixels with the same class


FP32_GATE = Gate()


@dataclass(frozen=True)
class ParityReport:
    """Differences between the logits of a candidate and a reference."""

    reference: str  # backend and device
    candidate: str
    source: str  # origin of the windows
    windows: int
    batches: tuple[int, ...]  # batch sizes that were run
    max_abs: float  # largest difference; not finite if any logit is not
    mean_abs: float
    low: float  # range of the reference's logits
    high: float
    agreement: float  # share of all pixels with the same class
    clear: float  # share of all pixels that are clear in the reference
    clear_agreement: float  # share of the clear pixels with the same class; 1 if there are none
    gate: Gate = FP32_GATE

    @property
    def allowed(self) -> float:
        """The largest difference that the gate allows for logits of this range."""
        return min(self.gate.max_abs, self.gate.relative * (self.high - self.low))

    @property
    def passed(self) -> bool:
        """True if all thresholds are met; never if a logit is not finite."""
        return self.max_abs <= self.allowed and self.clear_agreement >= self.gate.clear_agreement

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON types, with None for numbers that are not finite."""
        facts = {**asdict(self), "batches": list(self.batches), "passed": self.passed}
        return {
            key: None if isinstance(fact, float) and not math.isfinite(fact) else fact
            for key, fact in facts.items()
        }

    def lines(self) -> list[str]:
        """Return the report as text."""
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
        """Say why the candidate failed."""
        if not math.isfinite(self.low) or not math.isfinite(self.high):
            return "the checkpoint's own logits are not finite: its training diverged"
        return (
            f"logits differ by up to {self.max_abs:.2e} (allowed {self.allowed:.1e}) and "
            f"{share_text(self.clear_agreement)} of the clear pixels keep their class "
            f"(required {share_text(self.gate.clear_agreement)}), on {self.windows} windows"
        )


def compare(
    reference: Backend, candidate: Backend, windows: Windows, gate: Gate = FP32_GATE
) -> ParityReport:
    """Run two backends on the same windows, in batches of 1, 2, 3, 1, ... as the candidate allows.

    Args:
        reference: An entered backend.
        candidate: An entered backend.
        windows: At least one window.
        gate: The thresholds.
    """
    parts = list(_batches(len(windows), candidate.batches.largest))
    expected, found = (
        np.concatenate(
            [
                backend.infer(windows.feed(part, backend))["logits"].astype(np.float64)
                for part in parts
            ]
        )
        for backend in (reference, candidate)
    )
    with np.errstate(invalid="ignore"):  # infinity minus infinity
        difference = np.abs(found - expected)
        clear = _margin(expected) > gate.margin
    same = expected.argmax(axis=1) == found.argmax(axis=1)
    return ParityReport(
        reference=f"{reference.name} ({reference.device})",
        candidate=f"{candidate.name} ({candidate.device})",
        source=windows.source,
        windows=len(windows),
        batches=tuple(sorted({part.stop - part.start for part in parts})),
        max_abs=float(difference.max()),
        mean_abs=float(difference.mean()),
        low=float(expected.min()),
        high=float(expected.max()),
        agreement=float(same.mean()),
        clear=float(clear.mean()),
        clear_agreement=float(same[clear].mean()) if clear.any() else 1.0,
        gate=gate,
    )


def _batches(count: int, largest: int | None) -> Iterator[slice]:
    start = 0
    for size in cycle([size for size in BATCHES if largest is None or size <= largest]):
        if start >= count:
            return
        yield slice(start, min(start + size, count))
        start += size


def _margin(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return largest minus second largest logit, (N, row, column); infinite for one class."""
    if logits.shape[1] == 1:
        return np.full((len(logits), *logits.shape[2:]), np.inf)
    top = np.partition(logits, -2, axis=1)[:, -2:]
    return np.asarray(top[:, 1] - top[:, 0])
