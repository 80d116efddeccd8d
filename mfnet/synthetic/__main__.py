"""`python -m mfnet.synthetic`: write town scenes to train and test on."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import click

from mfnet.synthetic import MIN_SIZE, PIXEL, write_town
from mfnet_runtime.console import debug_option, run_command


@click.command("mfnet.synthetic")
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--train", default=3, show_default=True, type=click.IntRange(0), help="Scenes.")
@click.option("--test", default=1, show_default=True, type=click.IntRange(0), help="Scenes.")
@click.option(
    "--size", default=768, show_default=True, type=click.IntRange(MIN_SIZE), help="Pixels a side."
)
@click.option("--seed", default=7, show_default=True, type=click.IntRange(0), help="Of the towns.")
@debug_option
def command(out: Path, train: int, test: int, size: int, seed: int) -> None:
    """Write OUT/train and OUT/test with synthetic town scenes."""
    for part, count, first in (("test", test, seed), ("train", train, seed + 1000)):
        scenes = {f"{part}_{index + 1}": first + index for index in range(count)}
        if scenes:
            gaps = ("train_1",)  # one scene shows what gaps in a DSM do
            write_town(out / part, scenes, (size, size), nodata=gaps)
            click.echo(f"{out / part}: {count} scenes of {size} x {size} px, {PIXEL} m a pixel")


def main(args: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run_command(command, args)


if __name__ == "__main__":
    sys.exit(main())
