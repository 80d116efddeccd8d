"""`mfnet-export`: options in, one call, a report out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import click

from mfnet_runtime.command import debug_option, json_option, run_command

PATH = click.Path(path_type=Path)


@click.command("mfnet-export")
@click.option("--ckpt", type=PATH, required=True, help="best.pt, or an official .pth.")
@click.option("-o", "--out", type=PATH, help="ONNX file [default: beside the checkpoint].")
@click.option("--scenes", type=PATH, help="Folder of scenes to prove parity on [default: drawn].")
@click.option("--windows", default=4, show_default=True, help="How many of them.")
@click.option("--bands", help="Image bands of the scenes, for example 1,2,3.")
@click.option("--window", type=int, help="Pixels a side; official .pth only [default: 256].")
@click.option("--classes", type=PATH, help="JSON class table in place of the checkpoint's.")
@click.option("--no-rewrite", "without", multiple=True, metavar="STEP", help="Leave out a rewrite.")
@json_option
@debug_option
@click.version_option(package_name="mfnet")
def command(
    ckpt: Path,
    out: Path | None,
    scenes: Path | None,
    windows: int,
    bands: str | None,
    window: int | None,
    classes: Path | None,
    without: tuple[str, ...],
    as_json: bool,
) -> None:
    """Write the network of a checkpoint as one fast ONNX file.

    The file appears only after its logits were found equal to PyTorch's, on windows of SCENES or
    of a drawn town, and on noise.

    \b
    Examples:
      mfnet-export --ckpt runs/a/best.pt
      mfnet-export --ckpt official.pth -o best.onnx --classes classes.json --scenes scenes/
    """
    from mfnet_export.export import ExportRequest, exported
    from mfnet_runtime.cli import parse_bands

    chosen = parse_bands(bands) if bands else None
    request = ExportRequest(ckpt, out, scenes, windows, window, classes, chosen, without)
    report = exported(request, lambda text: click.echo(text, err=True))
    click.echo(json.dumps(report.to_json()) if as_json else "\n".join(report.lines()))


def main(args: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run_command(command, args)
