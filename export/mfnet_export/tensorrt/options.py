"""Options of a TensorRT plan."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from mfnet_runtime.backends.tensorrt.plan_file import HARDWARE, PLAN_SUFFIX, Profile
from mfnet_runtime.console import option_group
from mfnet_runtime.errors import UsageError

HEADING = "TensorRT plan"  # in the help
PORTABLE_TARGET = "portable"
# Kernels are chosen for the largest batch: all batches of a scene but the last are full.
BATCHES = Profile(1, 16, 16)


@dataclass(frozen=True)
class PlanOptions:
    """How TensorRT builds a plan, with the names of the options of `mfnet-export`."""

    target: tuple[str, ...] = ()  # RTX cards, such as sm89, or portable; empty: see `for_rtx`
    batches: Profile = BATCHES
    timing_cache: Path | None = None  # read if present, then written; shortens later builds
    opt_level: int | None = None  # 0 (fast build) to 5 (long search); None: TensorRT's own, 3
    workspace: float | None = None  # GiB that a kernel may use; None: all of the GPU
    own_kernels: bool = False  # without cuBLAS and cuDNN
    version_compatible: bool = False  # runs on later versions, and on the lean runtime
    hardware_compatible: str = "none"  # which other GPUs run it, one of HARDWARE
    refittable: bool = False  # weights can be exchanged later
    strip_weights: bool = False  # without weights; must be refitted before use

    def __post_init__(self) -> None:
        if PORTABLE_TARGET in self.target and len(self.target) > 1:
            raise UsageError(
                f"--target {PORTABLE_TARGET} includes all cards from Ampere on; leave the others "
                "out, or build a second plan"
            )

    @property
    def for_rtx(self) -> bool:
        """True if only TensorRT for RTX can build it; else TensorRT is used if it can be."""
        return bool(self.target)

    @property
    def cards(self) -> tuple[str, ...]:
        """The cards that are named; empty for a portable plan."""
        return tuple(name for name in self.target if name != PORTABLE_TARGET)


def plan_beside(onnx: Path) -> Path:
    """Return the path of a file's plan: best.fp16.onnx -> best.fp16.plan."""
    return onnx.with_suffix(PLAN_SUFFIX)


def profile_from_text(text: str) -> Profile:
    """Parse smallest, best and largest batch, for example `1,8,16`.

    Raises:
        UsageError: The text is not three ascending numbers from 1.
    """
    try:
        smallest, best, largest = (int(part) for part in text.split(","))
    except ValueError as fault:
        raise UsageError(f"--batches {text}: expected MIN,OPT,MAX, for example 1,8,16") from fault
    if not 1 <= smallest <= best <= largest:
        raise UsageError(f"--batches {text}: expected three ascending numbers from 1")
    return Profile(smallest, best, largest)


def _parse_batches(context: click.Context, option: click.Parameter, text: str) -> Profile:
    return profile_from_text(text)


def _parse_hardware(context: click.Context, option: click.Parameter, level: str) -> str:
    return level.replace("-", "_")


def _flag(name: str, text: str) -> Any:
    return click.option(name, is_flag=True, help=text)


_OPTIONS = (
    click.option(
        "--target",
        multiple=True,
        metavar="SM",
        help="Card of a plan for TensorRT for RTX: sm75, sm80, sm86, sm89, sm120, or portable "
        "for all from sm80 on; repeatable [default: portable].",
    ),
    click.option(
        "--batches",
        default="1,16,16",
        show_default=True,
        metavar="MIN,OPT,MAX",
        callback=_parse_batches,
        help="Batch sizes of the plan.",
    ),
    click.option(
        "--timing-cache",
        type=click.Path(path_type=Path),
        help="File with kernel timings, which shortens later builds.",
    ),
    click.option(
        "--opt-level",
        type=click.IntRange(0, 5),
        help="From 0 (fast build) to 5 (long search) [default: 3].",
    ),
    click.option(
        "--workspace",
        type=click.FloatRange(0, 1024, min_open=True),
        metavar="GIB",
        help="GPU memory for a kernel [default: all].",
    ),
    _flag("--own-kernels", "Use TensorRT's own kernels only, without cuBLAS and cuDNN."),
    _flag("--version-compatible", "Run on later versions of TensorRT and its lean runtime too."),
    click.option(
        "--hardware-compatible",
        type=click.Choice([level.replace("_", "-") for level in HARDWARE]),
        default="none",
        callback=_parse_hardware,
        help="Run on other GPUs too.",
    ),
    _flag("--refittable", "Allow the weights to be exchanged later."),
    _flag("--strip-weights", "Leave out the weights; the plan must be refitted before use."),
)
plan_options = option_group(PlanOptions, "plan_options", {HEADING: _OPTIONS})
