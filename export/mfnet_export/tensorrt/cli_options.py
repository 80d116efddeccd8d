"""The options of `mfnet-export` that concern plans, and what they mean together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from mfnet_runtime.backends.tensorrt.plan_file import HARDWARE
from mfnet_runtime.errors import UsageError

F = TypeVar("F", bound=Callable[..., Any])

PATH = click.Path(path_type=Path)
LEVELS = [level.replace("_", "-") for level in HARDWARE]
# Options that go with --onnx; the others are about checkpoints.
OF_PLANS = ("onnx", "out", "plan", "as_json")
OPTIONS = (
    click.option("--onnx", type=PATH, help="FP16 or FP32 ONNX file to build a plan of."),
    click.option("--plan", is_flag=True, help="Build a TensorRT plan, or fail where none can be."),
    click.option("--batches", metavar="MIN,OPT,MAX", help="Of the plan [default: 1,16,16]."),
    click.option("--timing-cache", type=PATH, help="File that shortens later builds."),
    click.option("--opt-level", type=int, help="0 (fast build) to 5 (long search) [default: 3]."),
    click.option("--workspace", type=float, metavar="GIB", help="For a kernel [default: all]."),
    click.option("--own-kernels", is_flag=True, help="TensorRT's own: no cuBLAS, no cuDNN."),
    click.option(
        "--version-compatible", is_flag=True, help="For later versions and the lean runtime too."
    ),
    click.option("--hardware-compatible", type=click.Choice(LEVELS), help="For other GPUs too."),
    click.option("--refittable", is_flag=True, help="Weights can be exchanged later."),
    click.option(
        "--strip-weights", is_flag=True, help="Leave them out, to be refitted before use."
    ),
)


def plan_options(command: F) -> F:
    """Give a command all of `OPTIONS`, in that order."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


@dataclass(frozen=True)
class PlanFlags:
    """The options as given."""

    onnx: Path | None
    plan: bool
    batches: str | None
    timing_cache: Path | None
    opt_level: int | None
    workspace: float | None
    own_kernels: bool
    version_compatible: bool
    hardware_compatible: str | None
    refittable: bool
    strip_weights: bool

    def wish(self, ckpt: Path | None, fp16: bool) -> Any:
        """What plan is wanted, a `PlanWish`; None for none.

        Raises:
            UsageError: options that mean nothing together, or each for itself.
        """
        from mfnet_export.tensorrt.options import PlanOptions, PlanWish, profile_from_text

        if (self.onnx is None) == (ckpt is None):
            raise UsageError("give either a checkpoint, --ckpt, or an ONNX file, --onnx")
        if self.onnx is not None and not self.plan:
            raise UsageError("--onnx builds a plan and nothing else; add --plan")
        chosen: dict[str, Any] = {
            "timing_cache": self.timing_cache,
            "level": self.opt_level,
            "workspace": self.workspace,
            "own_kernels": self.own_kernels or None,
            "version_compatible": self.version_compatible or None,
            "hardware": self.hardware_compatible and self.hardware_compatible.replace("-", "_"),
            "refittable": self.refittable or None,
            "strip_weights": self.strip_weights or None,
            "profile": self.batches and profile_from_text(self.batches),
        }
        given = {name: value for name, value in chosen.items() if value is not None}
        if not self.plan and not fp16:
            if given:
                raise UsageError("options of plans go with --plan; add it or leave them out")
            return None
        return PlanWish(PlanOptions(**given), required=self.plan)


def require_only_plan_options(context: click.Context) -> None:
    """Refuse options of checkpoints beside --onnx.

    Raises:
        UsageError: names the first.
    """
    known = {*OF_PLANS, *PlanFlags.__dataclass_fields__}
    for parameter in context.command.params:
        name = parameter.name or ""
        if name in known or context.get_parameter_source(name) != ParameterSource.COMMANDLINE:
            continue
        raise UsageError(f"{parameter.opts[-1]} goes with --ckpt, not with --onnx; leave it out")
