"""The fault matrix: each fault that `mfnet-run` meets on a CPU, and every invariant in each cell.

docs/RELIABILITY.md is the table of the same cells as last run; `print_matrix.py` prints it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
from faults.bench import Bench
from faults.cell import Cell, outcome_of
from faults.matrix import CELLS

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks, limits, inotify")


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    with Bench() as bench:
        yield bench


@pytest.mark.parametrize(
    "cell",
    [
        pytest.param(cell, id=cell.name, marks=[pytest.mark.slow] if cell.slow else [])
        for cell in CELLS
    ],
)
def test_cell(bench: Bench, cell: Cell) -> None:
    outcome_of(cell, bench)
