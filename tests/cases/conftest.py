"""Small inputs on which an earlier version went wrong; each folder names source and cause."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from support import SHARED


@pytest.fixture
def case() -> Callable[[str], Path]:
    """Return the folder of a case, or skip the test."""

    def find(name: str) -> Path:
        folder = SHARED / "cases" / name
        if not folder.is_dir():
            pytest.skip(f"../shared/cases/{name} is not here")
        return folder

    return find
