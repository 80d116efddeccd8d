"""Labels as other people write them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mfnet.cli import main as train

TINY = "--from-scratch --backbone tiny --window 64 --epochs 1 --steps 2 --batch 2".split()


@pytest.mark.parametrize("table", [False, True])
def test_a_mask_of_0_and_255(
    case: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], table: bool
) -> None:
    folder = case("label-0-255")
    more = ["--classes", str(folder / "classes2.json")] if table else []
    assert train([str(folder), "-o", str(tmp_path / "run"), *TINY, *more]) == 2
    assert "32.6% of the pixels are 255, which counts as unlabelled" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
