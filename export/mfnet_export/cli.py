"""`mfnet-export`: options in, one call, a report out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from mfnet_export.tensorrt.cli_options import (
    PATH,
    PlanFlags,
    plan_options,
    require_only_plan_options,
)
from mfnet_runtime.console import debug_option, json_option, run_command


@click.command("mfnet-export")
@click.option("--ckpt", type=PATH, help="best.pt, or an official .pth.")
@click.option("-o", "--out", type=PATH, help="ONNX file, or plan of --onnx [default: beside it].")
@click.option("--scenes", type=PATH, help="Folder of scenes to prove parity on [default: drawn].")
@click.option("--windows", default=4, show_default=True, help="How many of them.")
@click.option("--bands", help="Image bands of the scenes, for example 1,2,3.")
@click.option("--window", type=int, help="Pixels a side; official .pth only [default: 256].")
@click.option("--classes", type=PATH, help="JSON class table in place of the checkpoint's.")
@click.option("--no-rewrite", "without", multiple=True, metavar="STEP", help="Leave out a rewrite.")
@click.option(
    "--fp16", is_flag=True, help="Also write NAME.fp16.onnx, for GPUs; with one, its plan."
)
@click.option("--int8", is_flag=True, help="Also write NAME.int8.onnx.")
@click.option("--calibrate", type=PATH, help="Folder of scenes that --int8 takes ranges from.")
@click.option("--calibration-windows", type=int, help="How many windows of them [default: 32].")
@click.option(
    "--max-drop", type=float, help="Points of mIoU FP16 and INT8 may lose [default: 0.5]."
)
@click.option("--max-disagree", type=float, help="% of pixels they may change [default: 1].")
@plan_options
@json_option
@debug_option
@click.version_option(package_name="mfnet")
def command(
    ckpt: Path | None,
    out: Path | None,
    scenes: Path | None,
    windows: int,
    bands: str | None,
    window: int | None,
    classes: Path | None,
    without: tuple[str, ...],
    fp16: bool,
    int8: bool,
    calibrate: Path | None,
    calibration_windows: int | None,
    max_drop: float | None,
    max_disagree: float | None,
    as_json: bool,
    **plan_flags: Any,
) -> None:
    """Write the network of a checkpoint as one fast ONNX file.

    The file appears only after its logits were found equal to PyTorch's, on windows of SCENES or
    of a drawn town, and on noise. FP16 is compared with FP32 on the same windows, its rounding
    emulated on the CPU, and INT8 on windows held out; both are scored by mIoU where SCENES, or the
    scenes calibrated on, have labels. Past the bounds nothing is written.

    A plan is built by TensorRT on the GPU it is for, from --ckpt in one go or later from --onnx,
    which needs no PyTorch.

    \b
    Examples:
      mfnet-export --ckpt runs/a/best.pt
      mfnet-export --ckpt official.pth -o best.onnx --classes classes.json --scenes scenes/
      mfnet-export --ckpt best.pt --fp16 --scenes test/
      mfnet-export --ckpt best.pt --int8 --calibrate train/ --scenes test/
      mfnet-export --onnx best.fp16.onnx --plan --timing-cache timings
    """
    flags = PlanFlags(**plan_flags)
    wish = flags.wish(ckpt, fp16)
    report: Any
    if flags.onnx is not None:
        from mfnet_export.tensorrt.build import plan_from_onnx
        from mfnet_export.tensorrt.options import plan_beside

        require_only_plan_options(click.get_current_context())
        target = out or plan_beside(flags.onnx)
        report = plan_from_onnx(flags.onnx, target, wish.options, _tell)
    else:
        from mfnet_export.export import ExportRequest, exported
        from mfnet_export.precision.accuracy import bounds_from_flags
        from mfnet_export.precision.int8 import options_from_flags
        from mfnet_runtime.console import parse_bands

        assert ckpt is not None  # `wish` refuses neither
        chosen = parse_bands(bands) if bands else None
        bounds = bounds_from_flags(fp16 or int8, max_drop, max_disagree)
        quantised = options_from_flags(int8, calibrate, calibration_windows, bounds)
        halved = bounds if fp16 else None
        request = ExportRequest(
            ckpt, out, scenes, windows, window, classes, chosen, without, quantised, halved, wish
        )
        report = exported(request, _tell)
    click.echo(json.dumps(report.to_json()) if as_json else "\n".join(report.lines()))


def _tell(text: str) -> None:
    click.echo(text, err=True)


def main(args: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run_command(command, args)
