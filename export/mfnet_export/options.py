"""Options of an export, with the names of the options of `mfnet-export`."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from mfnet_runtime.errors import UsageError
from mfnet_runtime.scene.options import ReadOptions


@dataclass(frozen=True)
class ExportOptions:
    """Options of an export, and of its validation."""

    scenes: Path | None = None  # folder of scenes to validate on; None draws a synthetic town
    windows: int = 4  # windows to validate on, without those of noise
    read: ReadOptions = field(default_factory=ReadOptions)  # how to read scenes
    dataset: str | None = None  # that an official file was trained on
    window: int | None = None  # pixels per side, for an official file, which does not state it
    classes: Path | None = None  # JSON class table that replaces the checkpoint's
    no_rewrite: tuple[str, ...] = ()  # names of rewrites to leave out
    fp16: bool = False  # also write an FP16 file, and its plan where TensorRT is present
    int8: bool = False  # also write an INT8 file
    calibrate: Path | None = None  # folder of scenes that INT8 takes its ranges from
    calibration_windows: int = 32  # windows of them; a third as many are held out
    max_drop: float = 0.5  # points of mIoU (0 to 100) that FP16 and INT8 may lose
    max_disagree: float = 1.0  # percent of the pixels whose class they may change
    plan: bool = False  # build a TensorRT plan, or fail where that is impossible

    def __post_init__(self) -> None:
        if not self.int8:
            require_unset(self, ("calibrate", "calibration_windows"), "goes with --int8; add it")
            if not self.fp16:
                needed = "goes with --fp16 or --int8; add one"
                require_unset(self, ("max_drop", "max_disagree"), needed)
        elif self.calibrate is None:
            raise UsageError("--int8 needs real windows; name scenes with --calibrate SCENES")


def require_unset(options: Any, names: tuple[str, ...], needed: str) -> None:
    """Refuse options that differ from their defaults but would have no effect.

    Args:
        options: A frozen dataclass of options.
        names: The fields to check; empty checks all.
        needed: What the option needs, for the message.

    Raises:
        UsageError: Names the first such option.
    """
    for option in fields(options):
        if names and option.name not in names:
            continue
        if getattr(options, option.name) != option.default:
            raise UsageError(f"--{option.name.replace('_', '-')} {needed} or leave it out")
