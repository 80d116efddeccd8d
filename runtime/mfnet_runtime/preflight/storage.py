"""Whether a raster is stored so that it can be read fast."""

from __future__ import annotations

from collections.abc import Iterable

from mfnet_runtime.preflight.findings import Findings
from mfnet_runtime.preflight.raster_info import RasterFacts

LARGE_BLOCK = 64 << 20  # bytes; more at a time make reading slow


def examine_storage(found: Findings, facts: RasterFacts) -> None:
    """Findings on what is stored together."""
    if facts.block_bytes > LARGE_BLOCK:
        rows, columns = facts.block
        found.warning(
            "run",
            f"{facts.file}: is stored in blocks of {rows} x {columns} px, "
            f"{facts.block_bytes >> 20} MiB each, which makes reading slow; write it in tiles with "
            "gdal_translate -co TILED=YES",
        )


def examine_blocks(found: Findings, files: Iterable[RasterFacts | None], blocks: int) -> None:
    """Whether rows stored as a whole are read again for every block of columns.

    Args:
        found: Gets what there is.
        files: Of the scene.
        blocks: That a run would work it in.
    """
    for facts in files:
        if blocks > 1 and facts is not None and not facts.tiled:
            found.note(
                "run",
                f"{facts.file}: is stored by whole rows, which are read again for each of "
                f"{blocks} blocks of columns; tiles (gdal_translate -co TILED=YES) or more "
                "--max-memory are faster",
            )
