"""`mfnet-export`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from mfnet_export.interfaces.options import InterfaceOptions, interface_options
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
from mfnet_runtime.errors import MFNetError, UsageError, missing_package
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
@click.option("--onnx", type=PATH, help="ONNX file to build a plan of, or, with --for, a plan too.")
@click.option(
    "-o",
    "--out",
    type=PATH,
    help="ONNX file, or plan of --onnx, or folder of --onnx --for [default: beside it].",
)
@option_group(ExportOptions, "options", _GROUPS)
@read_options(PLAIN_DRIVERS[1:])
@plan_options
@interface_options
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
    interfaces: InterfaceOptions,
    as_json: bool,
) -> None:
    """Write the network of FILE, a checkpoint, as one fast ONNX file.

    The file is written only if its logits equal PyTorch's, on windows of SCENES or of a synthetic
    town, and on noise. FP16 is compared with FP32 on the same windows, with its rounding emulated
    on the CPU, and INT8 on held-out windows. Both are scored by mIoU if SCENES, or the calibration
    scenes, have labels. If a limit is exceeded, nothing is written.

    A plan is built by TensorRT on the GPU it is for, from --ckpt at once or later from --onnx,
    which needs no PyTorch. Nor does --for, which writes files for other programs: of the FP32 file
    of --ckpt, or of any that --onnx names.

    \b
    Examples:
      mfnet-export runs/a/best.pt
      mfnet-export --ckpt official.pth --dataset vaihingen -o best.onnx --scenes scenes/
      mfnet-export --ckpt best.pt --fp16 --scenes test/
      mfnet-export --ckpt best.pt --int8 --calibrate train/ --scenes test/
      mfnet-export --ckpt best.pt --int8 --fp16 --calibrate train/
      mfnet-export --onnx best.fp16.onnx --plan --timing-cache timings
      mfnet-export --onnx best.onnx --for triton --raw-inputs -o serving/
    """
    options = replace(options, read=read)
    if [file, ckpt, onnx].count(None) != 2:
        raise UsageError("give either a checkpoint, FILE or --ckpt, or an ONNX file, --onnx")
    ckpt = ckpt or file
    if not (options.plan or options.fp16):
        require_unset(plan_options, (), "goes with --plan; add it")
    if ckpt is not None:
        reports = _from_checkpoint(ckpt, out, options, plan_options, interfaces)
    elif onnx is not None:
        reports = _from_onnx(onnx, out, options, plan_options, interfaces)
    if as_json:
        known = {} if onnx and interfaces.names else reports.pop(0).to_json()
        if interfaces.names:
            known["interfaces"] = [report.to_json() for report in reports]
        say(json.dumps(known))
    else:
        say("\n".join(line for report in reports for line in report.lines()))


def _from_checkpoint(
    checkpoint: Path,
    out: Path | None,
    options: ExportOptions,
    plan_options: PlanOptions,
    interfaces: InterfaceOptions,
) -> list[Any]:
    """Export a checkpoint, then write the FP32 file for other programs."""
    try:
        from mfnet_export.export import export_checkpoint
    except ModuleNotFoundError as fault:
        raise UsageError(missing_package(fault.name, "export") or str(fault)) from fault
    report = export_checkpoint(checkpoint, out, options, plan_options)
    if not interfaces.names:
        return [report]
    from mfnet_export.interfaces.write import write_interfaces

    try:
        return [report, *write_interfaces(report.output, None, interfaces)]
    except MFNetError as fault:
        raise type(fault)(f"{fault} ({report.output.name} is written)") from fault


def _from_onnx(
    onnx: Path,
    out: Path | None,
    options: ExportOptions,
    plan_options: PlanOptions,
    interfaces: InterfaceOptions,
) -> list[Any]:
    """Build a plan of an ONNX file, or write the file for other programs."""
    if options.plan == bool(interfaces.names):
        raise UsageError(
            "--onnx either builds a plan, --plan, or writes files for other programs, --for; "
            "give one of the two"
        )
    if options.read != ReadOptions():
        raise UsageError("--onnx reads no scenes; leave the options about reading out")
    names = set(ExportOptions.__dataclass_fields__) - {"plan", "read"}
    require_unset(options, tuple(names), "goes with --ckpt, not with --onnx; use that")
    if options.plan:
        from mfnet_export.tensorrt.build import plan_from_onnx

        return [plan_from_onnx(onnx, out or plan_beside(onnx), plan_options)]
    if out is not None and (out.is_file() or out.suffix in (".onnx", ".plan")):
        raise UsageError(f"{out}: with --for, -o names a folder")
    from mfnet_export.interfaces.write import write_interfaces

    return list(write_interfaces(onnx, out, interfaces))


def main(args: Sequence[str] | None = None) -> int:
    """Run mfnet-export; return the exit code."""
    return run_command(command, args)
