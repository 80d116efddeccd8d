"""Options of a latency run, validated before any file is read."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path

from mfnet_runtime.backends import BACKENDS
from mfnet_runtime.errors import UsageError
from mfnet_runtime.scene.options import ReadOptions

# Kinds of engine: exported files, and baselines in PyTorch.
FILE, PUBLISHED, OURS, AUTOCAST, COMPILED = "file", "published", "mfnet", "autocast", "compiled"
MAX_BATCH = 1024
# By device: the backends compared, and the precisions in which floats are asked to be computed. On
# a GPU a file runs in its own precision.
DEFAULT_BACKENDS = {"cpu": ("onnxruntime", "openvino"), "cuda": ("tensorrt", "onnxruntime")}
PRECISIONS = {"cpu": ("fp32", "bf16"), "cuda": ("fp32",)}


@dataclass(frozen=True, kw_only=True)
class LatencyRequest:
    """Models, engines and settings to measure.

    Raises:
        UsageError: An option has a value out of range, or a file is missing.
    """

    models: tuple[Path, ...]  # exported files; checkpoints are further baselines
    baselines: tuple[Path, ...] = ()  # checkpoints; none: those beside the models
    device: str = "cpu"
    backends: tuple[str, ...] = ()  # none: DEFAULT_BACKENDS of the device
    precisions: tuple[str, ...] = ()  # none: PRECISIONS of the device
    batches: tuple[int, ...] = (1, 2, 4)
    rounds: int = 5
    scenes: Path | None = None  # image/ dsm/; None: a synthetic town
    read: ReadOptions = field(default_factory=ReadOptions)  # how to read them
    windows: int = 4  # on which classes are compared
    baseline_batch: int | None = None  # of PyTorch; None: the fastest of `batches`, by trial
    compiled: bool = True  # torch.compile as a further baseline
    threads: int | None = None  # None: one for each core this process may use
    plan_python: str = sys.executable  # interpreter with TensorRT, for plans

    def __post_init__(self) -> None:
        for name, known, default in (
            ("backends", tuple(BACKENDS), DEFAULT_BACKENDS[self.device]),
            ("precisions", PRECISIONS[self.device], PRECISIONS[self.device]),
        ):
            asked = getattr(self, name) or default
            unknown = [value for value in asked if value not in known]
            if unknown:
                raise UsageError(
                    f"--{name} {unknown[0]!r}: expected some of {', '.join(known)} "
                    f"with --device {self.device}"
                )
            object.__setattr__(self, name, asked)
        if not self.batches or any(
            not 1 <= batch <= MAX_BATCH for batch in (*self.batches, *self.baseline_batches)
        ):
            raise UsageError(f"batches {list(self.batches)}: expected sizes from 1 to {MAX_BATCH}")
        if self.rounds < 1 or self.windows < 1:
            raise UsageError(
                f"--rounds {self.rounds}, --windows {self.windows}: expected at least 1 of each"
            )
        for path in (*self.models, *self.baselines):
            if not path.is_file():
                raise UsageError(f"{path}: no such model file")

    @property
    def baseline_batches(self) -> tuple[int, ...]:
        """Batches that PyTorch is tried with."""
        return self.batches if self.baseline_batch is None else (self.baseline_batch,)
