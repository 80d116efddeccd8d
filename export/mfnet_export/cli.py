"""`mfnet-export`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from mfnet_export.options import ExportOptions, require_unset
from mfnet_export.tensorrt.options import HEADING, PlanOptions, plan_beside, plan_options
from mfnet_runtime.cli.read_options import read_options
from mfnet_runtime.console import (
    GroupedCommand,
    debug_option,
    json_option,
    option_group,
    run_command,
    say,
)
from mfnet_runtime.errors import UsageError
from mfnet_runtime.raster.limits import PLAIN_DRIVERS
from mfnet_runtime.scene.layouts import LAYOUTS
from mfnet_runtime.scene.options import ReadOptions

PATH = click.Path(path_type=Path)
PERCENT = click.FloatRange(0, 100)


def _option(name: str, text: str, **kind: Any) -> Any:
    """Make an option that has its default from `ExportOptions`."""
    default = getattr(ExportOptions, name.lstrip("-").replace("-", "_"))
    shown = default not in (None, False, ())
    return click.option(name, default=default, show_default=shown, help=text, **kind)


_GROUPS = {
    "Export": (
        _option(
            "--dataset",
            "Dataset of an official checkpoint, which sets bands, classes and pixel size.",
            type=click.Choice(list(LAYOUTS)),
        ),
        _option("--window", "Pixels per side; official .pth only [default: 256].", type=int),
        _option("--classes", "JSON class table that replaces the checkpoint's.", type=PATH),
        _option("--no-rewrite", "Leave out a rewrite; repeatable.", multiple=True, metavar="STEP"),
    ),
    "Validation": (
        _option("--scenes", "Folder of scenes to validate on [default: drawn].", type=PATH),
        _option("--windows", "Number of windows to validate on.", type=click.IntRange(1)),
    ),
    "FP16 and INT8": (
        _option("--fp16", "Also write NAME.fp16.onnx for GPUs, and its plan on one.", is_flag=True),
        _option(
            "--int8",
            "Also write NAME.int8.onnx, and with --fp16 NAME.int8.fp16.onnx.",
            is_flag=True,
        ),
        _option("--calibrate", "Folder of scenes that --int8 takes its ranges from.", type=PATH),
        _option("--calibration-windows", "Number of windows of them.", type=int),
        _option("--max-drop", "Points of mIoU that FP16 and INT8 may lose.", type=PERCENT),
        _option("--max-disagree", "Percent of pixels whose class they may change.", type=PERCENT),
    ),
    HEADING: (
        _option("--plan", "Build a TensorRT plan, or fail where that is impossible.", is_flag=True),
    ),
}


@click.command("mfnet-export", cls=GroupedCommand)
@click.argument("file", type=PATH, required=False)
@click.option("--ckpt", type=PATH, help="The same as FILE: best.pt, or official weights.")
@click.option("--onnx", type=PATH, help="ONNX file to build a plan of.")
@click.option("-o", "--out", type=PATH, help="ONNX file, or plan of --onnx [default: beside it].")
@option_group(ExportOptions, "options", _GROUPS)
@read_options(PLAIN_DRIVERS[1:])
@plan_options
@json_option
@debug_option
@click.version_option(package_name="mfnet")
def command(
    file: Path | None,
    ckpt: Path | None,
    onnx: Path | None,
    out: Path | None,
    options: ExportOptions,
    read: ReadOptions,
    plan_options: PlanOptions,
    as_json: bool,
) -> None:
    """Write the network of FILE, a checkpoint, as one fast ONNX file.

    The file is written only if its logits equal PyTorch's, on windows of SCENES or of a synthetic
    town, and on noise. FP16 is compared with FP32 on the same windows, with its rounding emulated
    on the CPU, and INT8 on held-out windows. Both are scored by mIoU if SCENES, or the calibration
    scenes, have labels. If a limit is exceeded, nothing is written.

    A plan is built by TensorRT on the GPU it is for, from --ckpt at once or later from --onnx,
    which needs no PyTorch.

    \b
    Examples:
      mfnet-export runs/a/best.pt
      mfnet-export --ckpt official.pth --dataset vaihingen -o best.onnx --scenes scenes/
      mfnet-export --ckpt best.pt --fp16 --scenes test/
      mfnet-export --ckpt best.pt --int8 --calibrate train/ --scenes test/
      mfnet-export --ckpt best.pt --int8 --fp16 --calibrate train/
      mfnet-export --onnx best.fp16.onnx --plan --timing-cache timings
    """
    report: Any
    options = replace(options, read=read)
    if [file, ckpt, onnx].count(None) != 2:
        raise UsageError("give either a checkpoint, FILE or --ckpt, or an ONNX file, --onnx")
    ckpt = ckpt or file
    if not (options.plan or options.fp16):
        require_unset(plan_options, (), "goes with --plan; add it")
    if ckpt is not None:
        from mfnet_export.export import export_checkpoint

        report = export_checkpoint(ckpt, out, options, plan_options)
    elif onnx is not None:
        from mfnet_export.tensorrt.build import plan_from_onnx

        if not options.plan:
            raise UsageError("--onnx only builds a plan; add --plan")
        if read != ReadOptions():
            raise UsageError("--onnx reads no scenes; leave the options about reading out")
        names = set(ExportOptions.__dataclass_fields__) - {"plan", "read"}
        require_unset(options, tuple(names), "goes with --ckpt, not with --onnx; use that")
        report = plan_from_onnx(onnx, out or plan_beside(onnx), plan_options)
    say(json.dumps(report.to_json()) if as_json else "\n".join(report.lines()))


def main(args: Sequence[str] | None = None) -> int:
    """Run mfnet-export; return the exit code."""
    return run_command(command, args)
