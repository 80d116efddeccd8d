"""Which part of a run a process does, where several share it. Pure arithmetic.

Of many scenes each process does some. Few scenes are cut: into runs of rows of their blocks, as
many as there are shards. Windows that reach over a cut are inferred on both sides.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from itertools import accumulate

from mfnet_runtime.errors import UsageError
from mfnet_runtime.tiling.grid import WindowGrid

MANY = 8  # scenes a shard: then none is cut, and shards differ by an eighth at most


@dataclass(frozen=True)
class Shard:
    """One of so many that share a run."""

    index: int = 1  # from 1
    count: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.index <= self.count:
            raise UsageError(
                f"--shard {self}: expected 1/{self.count} to {self.count}/{self.count}"
            )

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    @property
    def alone(self) -> bool:
        """There are no others."""
        return self.count == 1

    def leaves(self, scene: int, scenes: int) -> bool:
        """Whether all of a scene is another shard's; arguments as of `parts`."""
        return scenes >= MANY * self.count and scene % self.count != self.index - 1

    def parts(self, blocks: list[WindowGrid], scene: int, scenes: int) -> list[WindowGrid]:
        """What this shard makes of a scene.

        Args:
            blocks: Of the scene, as high as it is.
            scene: Which of the run's scenes it is, from 0.
            scenes: Their number.
        """
        if self.leaves(scene, scenes):
            return []
        if scenes >= MANY * self.count:
            return blocks
        height = blocks[0].height
        whole = height * len(blocks)  # rows of all blocks, one below the other
        first, stop = (whole * edge // self.count for edge in (self.index - 1, self.index))
        found = []
        for above, block in zip(accumulate([0] + [height] * len(blocks)), blocks, strict=False):
            rows = range(_cut(block, first - above), _cut(block, stop - above))
            if len(rows):
                found.append(replace(block, band=rows))
        return found


ALONE = Shard()


def _cut(block: WindowGrid, row: int) -> int:
    """The last start of a window at or above a row, where a cut costs least; or an end."""
    if row >= block.height:
        return block.height
    return max((offset.start for offset in block.rows if offset.start <= row), default=0)


def shard_from_text(text: str) -> Shard:
    """`"2/3"`: the second of three.

    Raises:
        UsageError: something else.
    """
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text.strip())
    if not found:
        raise UsageError(f"--shard {text!r}: expected K/N, for example 2/3")
    return Shard(int(found[1]), int(found[2]))
