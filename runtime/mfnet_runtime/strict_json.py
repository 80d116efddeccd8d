"""JSON of strangers: of bounded length and depth, each key once, no NaN and no infinities.

Python's parser takes all of that; what is read twice by two programs must not be two things.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

MAX_DEPTH = 32
MAX_LENGTH = 1 << 20  # characters; what a model says about itself is a few thousand


def json_from_text(text: str, longest: int = MAX_LENGTH) -> Any:
    """The data in a text.

    Raises:
        ValueError: no such JSON; says why, without the text.
    """
    if len(text) > longest:
        raise ValueError(f"{len(text)} characters; at most {longest} are read")
    try:
        data = json.loads(text, object_pairs_hook=_each_once, parse_constant=_no_number)
    except RecursionError:
        raise ValueError("nested too deep") from None
    _require_shallow(data, MAX_DEPTH)
    return data


def json_from_file(path: Path, longest: int = MAX_LENGTH) -> Any:
    """The data in a file of UTF-8 text.

    Raises:
        OSError: it cannot be read.
        ValueError: see `json_from_text`.
    """
    with path.open("rb") as file:
        return json_from_text(file.read(4 * longest + 1).decode("utf-8"), longest)


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"{twice[:60]!r} is there twice")
    return found


def _no_number(word: str) -> Any:
    raise ValueError(f"{word} is no number")


def _require_shallow(data: Any, left: int) -> None:
    if not left:
        raise ValueError(f"nested deeper than {MAX_DEPTH}")
    if isinstance(data, dict | list):
        for part in data.values() if isinstance(data, dict) else data:
            _require_shallow(part, left - 1)
