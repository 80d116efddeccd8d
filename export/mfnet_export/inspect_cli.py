"""`mfnet-inspect`: what a file promises, printed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import click

from mfnet_runtime.console import debug_option, json_option, run_command


@click.command("mfnet-inspect")
@click.argument("file", type=click.Path(path_type=Path))
@json_option
@debug_option
@click.version_option(package_name="mfnet")
def command(file: Path, as_json: bool) -> None:
    """Print what FILE promises: a checkpoint, an official .pth, ONNX, or a plan.

    \b
    Examples:
      mfnet-inspect best.pt
      mfnet-inspect best.onnx --json
    """
    from mfnet_export.inspect import inspected
    from mfnet_export.inspect_text import lines_from

    facts = inspected(file)
    click.echo(json.dumps(facts) if as_json else "\n".join(lines_from(facts)))


def main(args: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run_command(command, args)
