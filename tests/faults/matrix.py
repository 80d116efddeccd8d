"""All cells of the fault matrix."""

from __future__ import annotations

from dataclasses import replace

from faults import checkpoints, models, names, pairs, processes, rasters, reach, values
from faults.cell import Cell

# Left to the long run: others are much like them.
LONG = {
    "R2 TIFF truncated at 50 %",
    "R3 one corrupt deflate block, dsm",
    "R9 windows all nodata",
    "R10 1 x 50 px, windows of 32",
    "R10 31 x 31 px, windows of 32",
    "R10 32 x 32 px, windows of 32",
    "R11 2 bands",
    "R11 5 bands",
    "R11 complex numbers",
    "R14 VRT allowed, of ../ a file",
    "R15 link to nothing",
    "R16 name with spaces",
    "R16 name with unicode",
    "P6 DSM without a place, equal size",
    "M2 os.system in the format before 1.6",
    "M3 a weight too many",
    "M3 a sparse weight",
    "M5 weights of 2 GiB in an absolute path",
    "M5 weights of 2 GiB in a hard link",
    "M6 weight of -4 numbers",
    "M11 other channels",
    "M12 0 as scale",
    "X1 files end at 2,000 bytes",
    "X3 SIGINT",
    "X4 SIGKILL in scene a",
    "X4 SIGKILL in scene c",
    "X7 215 MiB of address space",
    "X9 --resume with other bands",
}
_EVERY = (
    *rasters.CELLS,
    *values.CELLS,
    *reach.CELLS,
    *names.CELLS,
    *pairs.CELLS,
    *checkpoints.CELLS,
    *models.CELLS,
    *processes.CELLS,
)
_ORDER = ("R", "P", "M", "X", "D")


def _place(cell: Cell) -> tuple[int, int]:
    return _ORDER.index(cell.fault[0]), int(cell.fault[1:])


CELLS: tuple[Cell, ...] = tuple(
    replace(cell, slow=cell.slow or cell.name in LONG) for cell in sorted(_EVERY, key=_place)
)
assert {cell.name for cell in CELLS} > LONG
