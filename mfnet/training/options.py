"""Options of a training run, and the learning rate at each step; imports nothing heavy."""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mfnet_runtime.contract import DsmRule
from mfnet_runtime.errors import UsageError

OPTIMIZERS = ("sgd", "adamw")
SCHEDULES = ("multistep", "cosine")
PAPER = "paper"
RECIPES = ("default", PAPER)
# What `--recipe` changes in other options; options given by the user win.
RECIPE_DEFAULTS: dict[str, dict[str, Any]] = {
    PAPER: {"backbone": "vit_l", "zero_rel_pos": True, "mixed_precision": False}
}


@dataclass(frozen=True)
class TrainConfig:
    """The recipe of a run, stored in its checkpoints; the defaults are the paper's.

    Raises:
        UsageError: A value is out of range.
    """

    epochs: int = 50
    steps: int = 1000  # batches per epoch
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
    class_weights: str = "none"  # "none", "balanced", or one number per class: "1,2,0.5"
    flips: bool = True  # vertical and horizontal, each half of the time
    rotations: bool = False  # by quarter turns: in the paper's text, not in its code
    jitter: float = 0.0  # largest random gain and offset of a window's image and heights
    seed: int = 0
    recipe: str = "default"  # or "paper": windows, labels and adapters as in the published code
    mixed_precision: bool = True  # float16 autocast, on CUDA only
    stride: int = 128  # pixels between validation windows

    def __post_init__(self) -> None:
        for name in ("epochs", "steps", "batch", "lr", "stride"):
            value = getattr(self, name)
            if not 0 < value < math.inf:
                raise UsageError(f"{name} is {value}; expected a positive number")
        for name in ("clip", "weight_decay", "momentum"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise UsageError(f"{name} is {value}; expected a number of at least 0")
        if self.recipe not in RECIPES:
            raise UsageError(f"recipe {self.recipe!r} is not one of {', '.join(RECIPES)}")
        if self.recipe == PAPER and (self.rotations or self.jitter or not self.flips):
            raise UsageError(
                "--recipe paper augments by flips only; leave --rotations, --jitter and --no-flips "
                "out"
            )
        if self.optimizer not in OPTIMIZERS:
            raise UsageError(f"optimizer {self.optimizer!r} is not one of {', '.join(OPTIMIZERS)}")
        if self.schedule not in SCHEDULES:
            raise UsageError(f"schedule {self.schedule!r} is not one of {', '.join(SCHEDULES)}")
        if not 0 <= self.jitter < 1:
            raise UsageError(f"jitter is {self.jitter}; expected at least 0 and less than 1")
        if not 0 <= self.seed < 2**32:
            raise UsageError(f"seed is {self.seed}; expected 0 to {2**32 - 1}")

    @staticmethod
    def with_defaults(
        optimizer: str = "sgd", schedule: str | None = None, lr: float | None = None, **others: Any
    ) -> TrainConfig:
        """Return a recipe; schedule and learning rate depend on the optimizer if they are None."""
        by_optimizer = ("multistep", 0.01) if optimizer == "sgd" else ("cosine", 0.001)
        schedule = by_optimizer[0] if schedule is None else schedule
        lr = by_optimizer[1] if lr is None else lr
        return TrainConfig(optimizer=optimizer, schedule=schedule, lr=lr, **others)

    def to_dict(self) -> dict[str, Any]:
        """Return the recipe as plain JSON types."""
        return {**asdict(self), "milestones": list(self.milestones)}

    def lr_at(self, epoch: int, step: int) -> float:
        """Return the learning rate of a step; epoch and step are counted from 0.

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


@dataclass(frozen=True)
class TrainRequest:
    """Network and data of a training, named as on the command line."""

    data: Path
    out: Path
    dataset: str | None = None  # layout of a benchmark; None: image/ dsm/ label/
    classes: Path | None = None  # JSON list of {"name", "colour"}
    allow_odd_labels: bool = False  # train although labels look wrong
    only: tuple[str, ...] = ()  # scenes to train on; empty: all
    validation: Path | None = None  # scenes that decide which epoch is best
    holdout: float = 0.2  # share of each scene's rows to validate on without a folder for that
    backbone: str = "vit_b"
    tuning: str = "lora"
    rank: int = 4
    window: int = 256  # pixels per side
    sam: Path | None = None
    init: Path | None = None  # checkpoint of an MFNet to start from
    from_scratch: bool = False
    zero_rel_pos: bool = False
    dsm_rule: DsmRule = field(default_factory=DsmRule)
    full_scale: float | None = None  # pixel value that becomes 1.0; None: by the image's type
    steps: int | None = None  # batches per epoch; None: the dataset's
    batch: int | None = None  # windows; None: 4 for vit_h, else 10
    stride: int | None = None  # pixels between validation windows; None: the dataset's
    device: str = "auto"
