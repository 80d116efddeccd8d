"""Going on with a run whatever became of its outputs, its pieces and its folder."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from interrupted import interrupt
from resumed_run import Told, digests, run

from mfnet_runtime.errors import ResourceError, UsageError
from mfnet_runtime.run.chunks import PieceWriter
from mfnet_runtime.run.manifest import FILE as MANIFEST
from mfnet_runtime.run.progress import SceneWork
from mfnet_runtime.run.workdir import WORK

Capture = pytest.CaptureFixture[str]
Patch = pytest.MonkeyPatch


def test_a_run_that_is_not_finished_is_not_begun_anew_by_itself(
    told: Told, whole: dict[str, str]
) -> None:
    interrupt(told)
    before = digests(Path(told.out))
    with pytest.raises(UsageError, match="add --resume to go on with it, or --restart"):
        run(told)
    assert digests(Path(told.out)) == before
    with pytest.raises(UsageError, match="stride was 16"):
        run(told.again(walk={"stride": 8}))
    other = told.again(resume=False, restart=True, walk={"stride": 8}, layers=False)
    run(other)
    assert not (Path(told.out) / WORK).exists(), "nothing of the other run stays"
    run(told.again(resume=False))
    assert digests(Path(told.out)) == whole


def test_a_run_without_a_piece_needs_no_word(told: Told, whole: dict[str, str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PieceWriter, "write", lambda *words: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(told)
    run(told)
    assert digests(Path(told.out)) == whole


def test_files_of_an_earlier_run_go(told: Told) -> None:
    out = Path(told.out)
    run(told.again(resume=False, vectors="fgb"))
    (out / "mine.txt").write_text("kept")
    run(told.again(resume=False, layers=False))
    assert sorted(digests(out)) == ["a.tif", "a.tif.aux.xml", "b.tif", "b.tif.aux.xml", "mine.txt"]


def test_a_work_folder_without_a_manifest(told: Told, whole: dict[str, str]) -> None:
    interrupt(told)
    (Path(told.out) / MANIFEST).unlink()
    run(told)
    assert digests(Path(told.out)) == whole


@pytest.mark.parametrize("change", [Path.unlink, lambda path: path.write_bytes(b"other")])
def test_an_output_that_is_not_as_written_is_made_again(
    told: Told, whole: dict[str, str], change: Callable[[Path], None]
) -> None:
    run(told)
    change(Path(told.out) / "a.confidence.tif")
    assert [outcome.row["resumed"] for outcome in run(told.again())] == [False, True]
    assert digests(Path(told.out)) == whole


def shortened(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("layer", ["classes", "probabilities"])
@pytest.mark.parametrize("change", [Path.unlink, shortened])
def test_a_piece_that_is_not_whole_is_made_again(
    told: Told, whole: dict[str, str], change: Callable[[Path], None], layer: str
) -> None:
    again = interrupt(told)
    change(sorted((Path(told.out) / WORK).rglob(f"*.{layer}"))[0])
    run(again)
    assert digests(Path(told.out)) == whole


def test_a_piece_with_other_bytes_is_never_written_out(told: Told, whole: dict[str, str]) -> None:
    again = interrupt(told)
    flipped(sorted((Path(told.out) / WORK).rglob("*.classes"))[0])
    with pytest.raises(ResourceError, match=r"not what was written.*--resume"):
        run(again)
    assert not (Path(told.out) / "a.tif").exists()
    run(again)
    assert digests(Path(told.out)) == whole


@pytest.mark.parametrize("step", ["note", "every_piece", "finish"])
def test_a_folder_that_goes_while_a_run_works_in_it(
    told: Told, step: str, monkeypatch: Patch
) -> None:
    then = getattr(SceneWork, step)

    def removed(*words: Any) -> Any:
        shutil.rmtree(told.out, ignore_errors=True)
        return then(*words)

    monkeypatch.setattr(SceneWork, step, removed)
    with pytest.raises(ResourceError, match=r"out: cannot be made or written .*; check free"):
        run(told)
    assert not Path(told.out).exists()


@pytest.mark.parametrize("batch", ["auto", None])
def test_a_finished_run_has_nothing_to_go_on_with(told: Told, batch: str | None) -> None:
    told = told.again(resume=False, walk={"batch": batch})
    run(told)
    before = digests(Path(told.out))
    assert [outcome.row["resumed"] for outcome in run(told.again())] == [True, True]
    assert digests(Path(told.out)) == before
