"""Markdown tables, read as well on a terminal as in a README, and their place in a document."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mfnet_runtime.errors import UsageError
from mfnet_runtime.files import replace_text


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Aligned columns: the first to the left, the others to the right."""
    widths = [max(len(row[index]) for row in (header, *rows)) for index in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        first, *others = (
            cell.ljust(width) if index == 0 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return "| " + " | ".join([first, *others]) + " |"

    rule = "|" + "|".join(
        ("-" * (width + 2)) if index == 0 else ("-" * (width + 1) + ":")
        for index, width in enumerate(widths)
    )
    return "\n".join([line(header), rule + "|", *(line(row) for row in rows)])


def figure(value: float | None, digits: int = 4) -> str:
    """A number, or a dash where there is none."""
    return "-" if value is None else f"{value:.{digits}f}"


def with_table(text: str, table: str, mark: str, name: str) -> str:
    """A document with the table between its two marks, `<!-- mark:begin -->` and `:end`.

    Args:
        text: The document.
        table: What goes between.
        mark: Which table it is.
        name: What to call the document in an error.

    Raises:
        UsageError: the marks are missing.
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
        UsageError: no such file, or no marks in it.
    """
    if not path.is_file():
        raise UsageError(f"{path}: no such file")
    replace_text(path, with_table(path.read_text(encoding="utf-8"), table, mark, str(path)))
