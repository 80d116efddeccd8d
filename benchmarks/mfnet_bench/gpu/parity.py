"""Whether plans give the logits that PyTorch gave for the same windows. Knows no engine.

PyTorch's logits were recorded when the files were made, where torch is; no torch is needed here.
FP32 plans run without TF32 and must keep to the bound of every FP32 file: a difference there is a
wrong plan, not rounding. FP16 is judged by the classes it keeps; without training by its logits,
since hardly a pixel is decided then.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mfnet_export.validation.parity import ParityReport, compared
from mfnet_export.validation.sample_windows import Windows
from mfnet_runtime.backends.base import Arrays, Backend, Batches, Feed, specs_of
from mfnet_runtime.contract import Contract

Floats = npt.NDArray[np.float32]
# Of the range of the logits; rounding to FP16 moves them by a tenth of it, a wrong kernel by more.
MAX_SHIFT = 0.02


class RecordedBackend:
    """Logits computed before, given out in the order of their windows."""

    name, precision, threads = "torch", "fp32", 0
    device = "recorded when the files were made"

    def __init__(self, contract: Contract, logits: Floats) -> None:
        self.contract, self.batches = contract, Batches(best=1)
        self.inputs, self.outputs = specs_of(contract)
        self._logits, self._next = logits, 0

    def infer(self, feed: Feed) -> Arrays:
        """Logits of the windows after those of the call before."""
        start, self._next = self._next, self._next + len(feed["image"])
        return {"logits": self._logits[start : self._next]}

    def __enter__(self) -> RecordedBackend:
        self._next = 0
        return self

    def __exit__(self, *raised: object) -> None:
        pass


def recorded(path: Path) -> tuple[Windows, Floats]:
    """The windows of a network and PyTorch's logits for them."""
    with np.load(path) as arrays:
        count = len(arrays["image"])
        windows = Windows(arrays["image"], arrays["dsm"], f"{count} recorded")
        return windows, arrays["logits"]


def parity_of(backend: Backend, path: Path) -> ParityReport:
    """A backend against the recorded logits, in batches of 1, 2, 3, 1, ...

    Args:
        backend: Entered.
        path: npz of windows and logits.
    """
    windows, logits = recorded(path)
    with RecordedBackend(backend.contract, logits) as reference:
        return compared(reference, backend, windows)


def parity_facts(report: ParityReport, bound: float, undecided: bool = False) -> dict[str, Any]:
    """What of a report goes into the results.

    Args:
        report: Of a plan.
        bound: Least share of all pixels that must keep their class.
        undecided: Judge by `MAX_SHIFT` instead.
    """
    near = report.max_abs <= MAX_SHIFT * (report.high - report.low)
    held = near if undecided else report.agreement >= bound
    return {**report.to_json(), "bound": None if undecided else bound, "held": held}
