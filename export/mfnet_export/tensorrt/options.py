"""How a plan is to be built. Knows no TensorRT."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mfnet_runtime.backends.tensorrt.plan_file import HARDWARE, PLAN_SUFFIX, Profile
from mfnet_runtime.errors import UsageError

LEVELS = range(6)  # TensorRT's builder optimisation levels


# Kernels are chosen for the largest batch: scenes run whole batches but for their last.
BATCHES = Profile(1, 16, 16)


@dataclass(frozen=True)
class PlanOptions:
    """What TensorRT is asked for beside the network."""

    profile: Profile = BATCHES
    timing_cache: Path | None = None  # read if there, then written: makes later builds shorter
    level: int | None = None  # 0 (fast build) to 5 (long search); None: TensorRT's own, 3
    workspace: float | None = None  # GiB a kernel may use; None: all of the GPU
    own_kernels: bool = False  # no cuBLAS, no cuDNN
    version_compatible: bool = False  # later versions of TensorRT run it too, and the lean runtime
    hardware: str = "none"  # other GPUs that run it too, one of HARDWARE
    refittable: bool = False  # weights can be exchanged later
    strip_weights: bool = False  # leave them out; the plan must be refitted before use

    def __post_init__(self) -> None:
        if self.level is not None and self.level not in LEVELS:
            raise UsageError(f"--opt-level {self.level}: expected {LEVELS[0]} to {LEVELS[-1]}")
        if self.workspace is not None and not 0 < self.workspace < 1024:
            raise UsageError(f"--workspace {self.workspace:g}: expected GiB, more than 0")
        if self.hardware not in HARDWARE:
            raise UsageError(f"--hardware-compatible {self.hardware}: not one of {HARDWARE}")


@dataclass(frozen=True)
class PlanWish:
    """A plan to build after an export."""

    options: PlanOptions
    required: bool  # False: only where this machine can build one


def plan_beside(onnx: Path) -> Path:
    """best.fp16.onnx -> best.fp16.plan."""
    return onnx.with_suffix(PLAN_SUFFIX)


def profile_from_text(text: str) -> Profile:
    """`1,8,16` -> smallest, best and largest batch.

    Raises:
        UsageError: not three ascending numbers from 1.
    """
    try:
        smallest, best, largest = (int(part) for part in text.split(","))
    except ValueError as fault:
        raise UsageError(f"--batches {text}: expected MIN,OPT,MAX, as 1,8,16") from fault
    if not 1 <= smallest <= best <= largest:
        raise UsageError(f"--batches {text}: expected three ascending numbers, from 1")
    return Profile(smallest, best, largest)
