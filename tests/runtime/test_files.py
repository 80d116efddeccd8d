"""A text file is replaced whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mfnet_runtime.files import replace_text


def test_replaces(tmp_path: Path) -> None:
    for text in ("one", "two, ä"):
        replace_text(tmp_path / "a.json", text)
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == "two, ä"
    assert os.listdir(tmp_path) == ["a.json"]


def test_a_fault_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_text(tmp_path / "a.json", "old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        replace_text(tmp_path / "a.json", "new")
    assert (tmp_path / "a.json").read_text() == "old"
    assert os.listdir(tmp_path) == ["a.json"]
