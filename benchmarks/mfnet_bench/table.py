"""Markdown tables that read well on a terminal too, and their place in a document."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mfnet_runtime.errors import UsageError
from mfnet_runtime.files import replace_text


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Align columns: the first to the left, the others to the right."""
    first, *others = (max(map(len, column)) for column in zip(header, *rows, strict=True))

    def line(cells: Sequence[str]) -> str:
        right = [cell.rjust(width) for cell, width in zip(cells[1:], others, strict=True)]
        return "| " + " | ".join([cells[0].ljust(first), *right]) + " |"

    rule = "|".join(["-" * (first + 2), *("-" * (width + 1) + ":" for width in others)])
    return "\n".join([line(header), f"|{rule}|", *map(line, rows)])


def figure(value: float | None, digits: int = 4) -> str:
    """Return a number as text, or a dash for None."""
    return "-" if value is None else f"{value:.{digits}f}"


def percent(share: float | None) -> str:
    """Return a share in percent, or a dash for None; rounded down, so that 100% means all."""
    if share is None:
        return "-"
    return "100%" if share == 1 else f"{int(share * 1e6) / 1e4:.4f}%"


def with_table(text: str, table: str, mark: str, name: str) -> str:
    """Put a table into a document, between `<!-- mark:begin -->` and `<!-- mark:end -->`.

    Args:
        text: The document.
        table: The table.
        mark: Names the place.
        name: The document's name, for errors.

    Raises:
        UsageError: The marks are missing.
    """
    begin, end = f"<!-- {mark}:begin -->", f"<!-- {mark}:end -->"
    before, begun, rest = text.partition(begin)
    _, ended, after = rest.partition(end)
    if not begun or not ended:
        raise UsageError(f"{name}: put {begin} and {end} where the table goes")
    return f"{before}{begin}\n{table}\n{end}{after}"


def update_document(path: Path, table: str, mark: str) -> None:
    """Replace a table in a file.

    Raises:
        UsageError: No such file, or no marks in it.
    """
    if not path.is_file():
        raise UsageError(f"{path}: no such file")
    replace_text(path, with_table(path.read_text(encoding="utf-8"), table, mark, str(path)))
