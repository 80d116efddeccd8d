"""The options of `mfnet-run` that say how a run goes on, or is shared by several processes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from mfnet_runtime.console import option_group

if TYPE_CHECKING:
    from mfnet_runtime.run.workdir import ResumeOptions


@dataclass(frozen=True)
class ResumeWords:
    """What the command line says about going on, as click gives it."""

    resume: bool
    restart: bool
    shard: str | None
    checkpoint: float

    def options(self) -> ResumeOptions:
        """The same, checked.

        Raises:
            UsageError: words that contradict each other, or no shard.
        """
        from mfnet_runtime.run.shard import ALONE, shard_from_text
        from mfnet_runtime.run.workdir import ResumeOptions

        shard = shard_from_text(self.shard) if self.shard else ALONE
        return ResumeOptions(self.resume, self.restart, shard, self.checkpoint)


_OPTIONS = (
    click.option(
        "--resume",
        is_flag=True,
        help="Go on where an interrupted run in the output folder ended.",
    ),
    click.option(
        "--restart", is_flag=True, help="Begin anew although a run there is not finished."
    ),
    click.option(
        "--shard",
        metavar="K/N",
        help="Do the K-th of N parts; the others share the output folder, and the last finishes.",
    ),
    click.option(
        "--checkpoint",
        type=click.FloatRange(min=0),
        default=10.0,
        show_default=True,
        metavar="SECONDS",
        help="Work that a crash may cost, about.",
    ),
)

resume_options = option_group(ResumeWords, _OPTIONS, "resuming", "Going on, and sharing a run")
