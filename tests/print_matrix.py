"""Runs the fault matrix with its slow cells, and prints what came of it into docs/RELIABILITY.md.

    python tests/print_matrix.py

If a cell breaks an invariant, it is named and nothing is printed. This takes some minutes.
"""

from __future__ import annotations

import os
import platform
import sys
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

from faults import checkpoints, onnx_files, pairs, processes, rasters
from faults.cell import Cell, outcome_of
from faults.workplace import Bench

FILE = Path(__file__).parents[1] / "docs" / "RELIABILITY.md"
PACKAGES = ("mfnet", "onnxruntime", "rasterio", "numpy", "torch", "onnx")
HEAD = ("Fault", "", "What comes of it", "Exit", "s", "MiB")
ORDER = "RPMX"
CELLS: tuple[Cell, ...] = tuple(
    sorted(
        (
            *rasters.CELLS,
            *pairs.CELLS,
            *checkpoints.CELLS,
            *onnx_files.CELLS,
            *processes.CELLS,
        ),
        key=lambda cell: (ORDER.index(cell.fault[0]), int(cell.fault[1:])),
    )
)


def described(cell: Cell) -> tuple[str, ...]:
    """Return the part of a row that is known before the run."""
    code = str(cell.code) if cell.code >= 0 else f"signal {-cell.code}"
    return cell.fault, cell.what, cell.result, code


def rows_in(text: str) -> list[tuple[str, ...]]:
    """Return the rows of the table in a document, without what was measured."""
    part = text.partition("<!-- matrix -->\n")[2].partition("<!-- end of matrix -->")[0]
    return [tuple(line[2:-2].split(" | ")[:4]) for line in part.splitlines()[2:]]


def with_part(text: str, name: str, part: str) -> str:
    """Replace a generated part of a document."""
    begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
    before, rest = text.split(begin)
    return f"{before}{begin}{part}\n{end}{rest.split(end)[1]}"


def main() -> int:
    """Entry point; returns the exit code."""
    rows, broken = [], []
    with Bench() as bench:
        for cell in CELLS:
            try:
                ended = outcome_of(cell, bench)
                numbers = (f"{ended.seconds:.1f}", str(ended.memory >> 20))
                rows.append((*described(cell), *numbers))
            except AssertionError as error:
                broken.append(f"{cell.name}: {error}")
    if broken:
        print("\n".join(broken), file=sys.stderr)
        return 1
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    today = datetime.now(timezone.utc).date()
    run = (
        f"{len(rows)} cells, all as described, on {today} with Python {platform.python_version()}, "
        f"{packages}; Linux {platform.release()} on {os.cpu_count()} cores of {platform.machine()}."
    )
    text = with_part(FILE.read_text(), "run", run)
    lines = [HEAD, ["---"] * 4 + ["---:"] * 2, *rows]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    FILE.write_text(with_part(text, "matrix", table))
    return 0


if __name__ == "__main__":
    sys.exit(main())
