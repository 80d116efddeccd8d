"""The options of `mfnet-run` that say where windows lie and how their logits become one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from mfnet_runtime.console import option_group
from mfnet_runtime.errors import UsageError
from mfnet_runtime.tiling.grid import BLENDS, DEFAULT_BLEND
from mfnet_runtime.tiling.published import PUBLISHED, SumName

if TYPE_CHECKING:
    from mfnet_runtime.contract import DsmRule

PUBLISHED_STRIDE = 32  # pixels


@dataclass(frozen=True)
class WalkWords:
    """What the command line says about windows, as click gives it."""

    stride: int | None
    blend: Any  # one of BLENDS or None
    protocol: str | None

    def settings(self, dsm: DsmRule | None) -> tuple[int | None, SumName, DsmRule | None]:
        """Stride, blending, and how heights become network input.

        Args:
            dsm: As asked for otherwise.

        Raises:
            UsageError: a protocol, and what contradicts it.
        """
        from mfnet_runtime.contract import DsmRule

        if self.protocol is None:
            return self.stride, self.blend or DEFAULT_BLEND, dsm
        for word, given in (("--blend", self.blend), ("--dsm-range", dsm)):
            if given is not None:
                raise UsageError(
                    f"--protocol {self.protocol} fixes what {word} says; leave one out"
                )
        stride = PUBLISHED_STRIDE if self.stride is None else self.stride
        return stride, PUBLISHED, DsmRule("scene_minmax")


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
