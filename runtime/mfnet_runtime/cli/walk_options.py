"""The options of `mfnet-run` that say where windows lie and how their logits become one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import click

from mfnet_runtime.console import option_group
from mfnet_runtime.tiling.options import BLENDS, DEFAULT_BLEND, PUBLISHED


@dataclass(frozen=True)
class WalkWords:
    """The command line's choices of windows, as click gives them."""

    stride: int | None
    blend: Any  # one of BLENDS or None
    protocol: Any  # "published" or None


_OPTIONS = (
    click.option("--stride", type=int, help="Pixels between windows [default: half a window]."),
    click.option(
        "--blend",
        type=click.Choice(BLENDS),
        help="How overlapping logits are weighed: all alike, by a Hann window against seams, or "
        f"only the window whose centre is nearest [default: {DEFAULT_BLEND}].",
    ),
    click.option(
        "--protocol",
        type=click.Choice([PUBLISHED]),
        help="Logits summed to the bit as in the paper's test code: stride 32 unless told, "
        "float64, heights from the scene's lowest to its highest. On the CPU; slow.",
    ),
)

walk_options = option_group(WalkWords, _OPTIONS, "walk", "Windows")
