"""Write synthetic town scenes to train and test on: `python -m mfnet.synthetic OUT`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import click

from mfnet.synthetic import MIN_SIZE, PIXEL, write_town
from mfnet_runtime.console import debug_option, run_command, say


@click.command("mfnet.synthetic", context_settings={"show_default": True})
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--train", default=3, type=click.IntRange(0), help="Training scenes.")
@click.option("--test", default=1, type=click.IntRange(0), help="Test scenes.")
@click.option("--size", default=768, type=click.IntRange(MIN_SIZE), help="Pixels per side.")
@click.option("--seed", default=7, type=click.IntRange(0), help="Seed of the first scene.")
@debug_option
def command(out: Path, train: int, test: int, size: int, seed: int) -> None:
    """Write OUT/train and OUT/test with synthetic town scenes."""
    for part, count, first in (("test", test, seed), ("train", train, seed + 1000)):
        scenes = {f"{part}_{index + 1}": first + index for index in range(count)}
        if scenes:
            # One scene demonstrates gaps in a DSM.
            write_town(out / part, scenes, (size, size), nodata=["train_1"])
            say(f"{out / part}: {count} scenes of {size} x {size} px, {PIXEL} m per pixel")


def main(args: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(command, args)


if __name__ == "__main__":
    sys.exit(main())
