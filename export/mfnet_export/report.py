"""Formatting of printed reports."""

from __future__ import annotations

import math
from collections.abc import Iterable


def labelled(label: str, rows: Iterable[str]) -> list[str]:
    """Put a label before the first row and indent the others to the same column."""
    return [f"{'' if index else label:9} {row}" for index, row in enumerate(rows)]


def size_text(size: int) -> str:
    """Format a number of bytes in decimal units, for example "412.3 MB"."""
    amount = float(size)
    for unit in ("bytes", "kB", "MB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}" if unit == "bytes" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.2f} GB"


def share_text(share: float) -> str:
    """Format a share as a percentage, rounded down: "100 %" means all."""
    return "100 %" if share == 1 else f"{math.floor(share * 1e6) / 1e4:.4f} %"
