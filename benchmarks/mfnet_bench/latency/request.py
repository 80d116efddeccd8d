"""What is asked of a latency run, and what is refused before any file is read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mfnet_runtime.backends import BACKENDS
from mfnet_runtime.errors import UsageError

MAX_BATCH = 1024
PRECISIONS = ("fp32", "bf16")  # in which an engine is asked to compute what the file leaves float


@dataclass(frozen=True, kw_only=True)
class LatencyRequest:
    """What to measure on what.

    Raises:
        UsageError: a value that means nothing.
    """

    models: tuple[Path, ...]  # exported files, and checkpoints as further baselines
    baselines: tuple[Path, ...] = ()  # checkpoints; none: those beside the models
    backends: tuple[str, ...] = ("onnxruntime", "openvino")
    precisions: tuple[str, ...] = PRECISIONS
    batches: tuple[int, ...] = (1, 2, 4)
    rounds: int = 5
    scenes: Path | None = None  # image/ dsm/; None: a drawn town
    windows: int = 4  # that classes are compared on
    baseline_batch: int | None = None  # of PyTorch; None: the fastest of `batches`, by trial
    compiled: bool = True  # torch.compile as a third baseline
    threads: int | None = None  # None: one a core this process may use

    def __post_init__(self) -> None:
        if not self.models:
            raise UsageError("no model given; name exported files or checkpoints")
        for name, known, asked in (
            ("backend", tuple(BACKENDS), self.backends),
            ("precision", PRECISIONS, self.precisions),
        ):
            unknown = [value for value in asked if value not in known]
            if unknown or not asked:
                found = repr(unknown[0]) if unknown else "none"
                raise UsageError(f"{name} {found}: expected some of {', '.join(known)}")
        if not self.batches or any(
            not 1 <= batch <= MAX_BATCH for batch in (*self.batches, *self.baseline_batches)
        ):
            raise UsageError(f"batches {list(self.batches)}: expected sizes from 1 to {MAX_BATCH}")
        if self.rounds < 1 or self.windows < 1:
            raise UsageError(
                f"{self.rounds} rounds on {self.windows} windows: expected at least one of each"
            )
        for path in (*self.models, *self.baselines):
            if not path.is_file():
                raise UsageError(f"{path}: no such model file")

    @property
    def baseline_batches(self) -> tuple[int, ...]:
        """Batches that PyTorch is tried with."""
        return self.batches if self.baseline_batch is None else (self.baseline_batch,)


def parse_list(text: str) -> tuple[str, ...]:
    """Words between commas, each once."""
    return tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


def parse_sizes(text: str) -> tuple[int, ...]:
    """Whole numbers between commas, ascending, each once.

    Raises:
        UsageError: something else.
    """
    try:
        return tuple(sorted({int(part) for part in parse_list(text)}))
    except ValueError as fault:
        raise UsageError(f"{text!r}: expected whole numbers, for example 1,2,4") from fault
