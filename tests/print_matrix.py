"""Runs the fault matrix, the long cells too, and prints what came of it into docs/RELIABILITY.md.

    python tests/print_matrix.py

A cell that breaks an invariant is named, and nothing is printed. Takes some minutes.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterable
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

from faults.bench import Bench
from faults.cell import Cell, outcome_of
from faults.geotiffs import PARTS, outcomes
from faults.matrix import CELLS
from faults.mutations import MUTANTS
from faults.runner import Ended

FILE = Path(__file__).parents[1] / "docs" / "RELIABILITY.md"
HEAD = ("Fault", "", "What comes of it", "Exit", "s", "MiB")
PACKAGES = ("mfnet", "onnxruntime", "rasterio", "numpy", "torch", "onnx")


def described(cell: Cell) -> tuple[str, ...]:
    """What a row says of a cell before it is run."""
    code = str(cell.code) if cell.code >= 0 else f"signal {-cell.code}"
    return cell.fault, cell.what, cell.result, code


def table(rows: Iterable[Iterable[str]]) -> str:
    """Markdown."""
    lines = [HEAD, ["---"] * 4 + ["---:"] * 2, *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def rows_in(text: str) -> list[tuple[str, ...]]:
    """What the table in a document says of each cell, without what was measured."""
    rows = [line[2:-2].split(" | ") for line in between(text, "matrix").splitlines()]
    return [tuple(row[:4]) for row in rows[2:]]


def between(text: str, name: str) -> str:
    """The generated part of a document that has this name."""
    return text.partition(f"<!-- {name} -->\n")[2].partition(f"<!-- end of {name} -->")[0]


def with_part(text: str, name: str, part: str) -> str:
    """A document with another generated part of this name."""
    begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
    before, rest = text.split(begin)
    return f"{before}{begin}{part}\n{end}{rest.split(end)[1]}"


def measured(cell: Cell, ended: Ended) -> tuple[str, ...]:
    """A row."""
    return *described(cell), f"{ended.seconds:.1f}", str(ended.memory >> 20)


def circumstances(cells: int) -> str:
    """When, where and with what."""
    today = datetime.now(timezone.utc).date()
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    return (
        f"{cells} cells, all as described, on {today} with Python {platform.python_version()}, "
        f"{packages}; Linux {platform.release()} on {os.cpu_count()} cores of {platform.machine()}."
    )


def geotiffs(bench: Bench) -> str:
    """How many files of each kind were segmented, and how many refused."""
    lines = [("Files", "", "Segmented", "Refused"), ("---", "---:", "---:", "---:")]
    for part, what in PARTS.items():
        found = outcomes(bench, part)
        lines.append((what, str(len(found)), str(found.count(0)), str(found.count(4))))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def mutations() -> str:
    """Which tests miss which safeguard."""
    lines = [("Without", "In", "Red"), ("---",) * 3]
    lines += [(one.without, f"`{one.file}`", f"`{one.tests}`") for one in MUTANTS]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> int:
    """Entry point; returns the exit code."""
    rows, broken = [], []
    with Bench() as bench:
        for cell in CELLS:
            try:
                rows.append(measured(cell, outcome_of(cell, bench)))
            except AssertionError as fault:
                broken.append(f"{cell.name}: {fault}")
        files = geotiffs(bench)
    if broken:
        print("\n".join(broken), file=sys.stderr)
        return 1
    text = with_part(FILE.read_text(), "matrix", table(rows))
    text = with_part(text, "run", circumstances(len(rows)))
    text = with_part(text, "mutations", mutations())
    FILE.write_text(with_part(text, "geotiffs", files))
    return 0


if __name__ == "__main__":
    sys.exit(main())
