"""All cells of the fault matrix."""

from __future__ import annotations

from faults import checkpoints, models, names, pairs, processes, rasters, reach, values
from faults.cell import Cell

CELLS: tuple[Cell, ...] = (
    *rasters.CELLS,
    *values.CELLS,
    *reach.CELLS,
    *names.CELLS,
    *pairs.CELLS,
    *checkpoints.CELLS,
    *models.CELLS,
    *processes.CELLS,
)
