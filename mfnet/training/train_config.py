"""What fixes a training run, and the learning rate at each step. Knows no tensors."""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import asdict, dataclass
from typing import Any

from mfnet_runtime.errors import UsageError

OPTIMIZERS = ("sgd", "adamw")
SCHEDULES = ("multistep", "cosine")


@dataclass(frozen=True)
class TrainConfig:
    """A training run; the defaults are the paper's recipe (reference MFNET.md, section 6).

    Raises:
        UsageError: a value outside its range.
    """

    epochs: int = 50
    steps: int = 1000  # batches an epoch
    batch: int = 10  # windows
    optimizer: str = "sgd"
    schedule: str = "multistep"
    lr: float = 0.01
    momentum: float = 0.9  # of sgd
    weight_decay: float = 5e-4
    milestones: tuple[int, ...] = (25, 35, 45)  # epochs, from 1, at which multistep drops lr
    gamma: float = 0.1  # factor of each drop
    warmup: float = 0.03  # share of all steps over which cosine rises linearly
    clip: float = 0.0  # largest gradient norm; 0: no clipping
    class_weights: str = "none"  # "none", "balanced", or a number a class: "1,2,0.5"
    flips: bool = True  # vertical and horizontal, each half of the time
    rotations: bool = False  # by quarter turns: in the paper's text, not in its code
    jitter: float = 0.0  # largest random gain and offset of a window's image and of its heights
    seed: int = 0
    mixed_precision: bool = True  # float16 autocast, on CUDA only
    stride: int = 128  # pixels between validation windows

    def __post_init__(self) -> None:
        positive = {
            "epochs": self.epochs,
            "steps": self.steps,
            "batch": self.batch,
            "lr": self.lr,
            "stride": self.stride,
        }
        for name, value in positive.items():
            if not 0 < value < math.inf:
                raise UsageError(f"{name} is {value}; expected a positive number")
        if self.optimizer not in OPTIMIZERS:
            raise UsageError(f"optimizer {self.optimizer!r} is not one of {', '.join(OPTIMIZERS)}")
        if self.schedule not in SCHEDULES:
            raise UsageError(f"schedule {self.schedule!r} is not one of {', '.join(SCHEDULES)}")
        if not 0 <= self.jitter < 1:
            raise UsageError(f"jitter is {self.jitter}; expected a share from 0 to below 1")
        if not all(
            0 <= value < math.inf for value in (self.clip, self.weight_decay, self.momentum)
        ):
            raise UsageError("clip, weight decay and momentum must be numbers from 0")
        if not 0 <= self.seed < 2**32:
            raise UsageError(f"seed is {self.seed}; expected 0 to {2**32 - 1}")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types only."""
        return {**asdict(self), "milestones": list(self.milestones)}

    def lr_at(self, epoch: int, step: int) -> float:
        """Learning rate of a step, both counted from 0.

        multistep drops it at the start of each milestone epoch; cosine falls to zero over the
        whole run after a linear warm-up. A pure function, so that resuming needs no state.
        """
        if self.schedule == "multistep":
            return self.lr * self.gamma ** bisect_right(self.milestones, epoch + 1)
        total = self.epochs * self.steps
        done = epoch * self.steps + step
        rise = max(1, round(self.warmup * total))
        if done < rise:
            return self.lr * (done + 1) / rise
        return self.lr * 0.5 * (1 + math.cos(math.pi * (done - rise) / max(1, total - rise)))
