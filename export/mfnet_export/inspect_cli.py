"""`mfnet-inspect`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import click

from mfnet_runtime.console import debug_option, json_option, run_command, say


@click.command("mfnet-inspect")
@click.argument("file", type=click.Path(path_type=Path))
@json_option
@debug_option
@click.version_option(package_name="mfnet")
def command(file: Path, as_json: bool) -> None:
    """Print what FILE contains: a checkpoint, an official .pth, an ONNX file, or a plan.

    \b
    Examples:
      mfnet-inspect best.pt
      mfnet-inspect best.onnx --json
    """
    from mfnet_export.inspect import inspect_file, lines_from_facts

    facts = inspect_file(file)
    say(json.dumps(facts) if as_json else "\n".join(lines_from_facts(facts)))


def main(args: Sequence[str] | None = None) -> int:
    """Run mfnet-inspect; return the exit code."""
    return run_command(command, args)
