"""Files are replaced whole or not at all; changes of their content are noticed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mfnet_runtime import files
from mfnet_runtime.files import FileDigest, lock, replace_text


def test_replaces(tmp_path: Path) -> None:
    for text in ("one", "two, ä"):
        replace_text(tmp_path / "a.json", text)
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == "two, ä"
    assert os.listdir(tmp_path) == ["a.json"]


def test_an_error_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_text(tmp_path / "a.json", "old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        replace_text(tmp_path / "a.json", "new")
    assert (tmp_path / "a.json").read_text() == "old"
    assert os.listdir(tmp_path) == ["a.json"]


@pytest.mark.parametrize("large", [False, True])
def test_a_digest_notices_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, large: bool
) -> None:
    """Of a large file only samples are read, so its modification time counts too."""
    if large:
        monkeypatch.setattr(files, "WHOLE", 100)
        monkeypatch.setattr(files, "SAMPLE", 1)
    path = tmp_path / "a.tif"
    path.write_bytes(bytes(1000))
    digest = FileDigest.of(path)
    assert digest.sampled == large
    assert not FileDigest.of(path, whole=True).sampled
    assert digest.matches(path)
    os.utime(path, (10**9, 10**9))
    assert digest.matches(path) == (not large)
    path.write_bytes(b"x" + bytes(999))
    assert FileDigest.of(path).sha256 != digest.sha256
    assert not digest.matches(path)
    path.write_bytes(bytes(999))
    assert not digest.matches(path)
    path.unlink()
    assert not digest.matches(path)


def test_a_lock_excludes_others_until_it_is_closed(tmp_path: Path) -> None:
    with (tmp_path / "a").open("wb") as first, (tmp_path / "a").open("wb") as second:
        assert lock(first.fileno())
        assert not lock(second.fileno())
        first.close()
        assert lock(second.fileno())
