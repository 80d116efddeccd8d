"""Resuming a run whatever happened to its outputs, its blocks and its folder."""

from __future__ import annotations

import shutil
import signal
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import rasterio
from rasterio.errors import NotGeoreferencedWarning
from runs import Spec, digests, interrupt, run
from undisturbed import Undisturbed, wait_for_blocks

from mfnet_runtime.errors import ResourceError, UsageError
from mfnet_runtime.run import segment
from mfnet_runtime.run.executors import base
from mfnet_runtime.run.finish import finish_scene
from mfnet_runtime.run.manifest import FILE, WORK, Manifest

Patch = pytest.MonkeyPatch


def test_an_unfinished_run_is_not_begun_anew_by_itself(spec: Spec, whole: dict[str, str]) -> None:
    interrupt(spec)
    before = digests(Path(spec.out))
    with pytest.raises(UsageError, match="add --resume to continue it, or --restart"):
        run(spec)
    assert digests(Path(spec.out)) == before
    run(spec.again(resume=False, restart=True, options={"stride": 8}, layers=False))
    assert not (Path(spec.out) / WORK).exists(), "nothing of the other run stays"
    run(spec.again(resume=False))
    assert digests(Path(spec.out)) == whole


def test_a_run_that_left_nothing_is_begun_anew(spec: Spec, whole: dict[str, str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(base, "do", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(spec)
    assert not (Path(spec.out) / WORK).exists()
    run(spec)
    assert digests(Path(spec.out)) == whole


def test_files_of_an_earlier_run_are_removed(spec: Spec) -> None:
    out = Path(spec.out)
    run(spec.again(resume=False, vectors="fgb"))
    (out / "mine.txt").write_text("kept")
    run(spec.again(resume=False, layers=False))
    maps = [f"{name}.{end}" for name in "ab" for end in ("qml", "tif", "tif.aux.xml")]
    assert sorted(digests(out)) == [*maps, "mine.txt"]


def test_temporary_files_without_a_manifest(spec: Spec, whole: dict[str, str]) -> None:
    interrupt(spec)
    (Path(spec.out) / FILE).unlink()
    run(spec)
    assert digests(Path(spec.out)) == whole


def shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def change_pixel(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path, "r+") as block:
            block.write(block.read(1) ^ 1, 1)


@pytest.mark.parametrize("change", [Path.unlink, shorten, flip])
def test_an_output_that_has_changed_is_made_again(
    spec: Spec, whole: dict[str, str], change: Callable[[Path], None]
) -> None:
    run(spec)
    change(Path(spec.out) / "a.confidence.tif")
    assert [outcome.row["resumed"] for outcome in run(spec.again())] == [False, True]
    assert digests(Path(spec.out)) == whole


@pytest.mark.parametrize(
    "change", [Path.unlink, shorten, change_pixel, lambda path: path.write_bytes(b"")]
)
def test_a_block_that_has_changed_is_made_again(
    spec: Spec, whole: dict[str, str], change: Callable[[Path], None]
) -> None:
    again = interrupt(spec)
    change(min((Path(spec.out) / WORK / "a").glob("*.tif")))
    (outcome, _) = run(again)
    assert outcome.row["blocks"] == 7, "it, and those that were missing"
    assert digests(Path(spec.out)) == whole


@pytest.mark.parametrize("change", [Path.unlink, change_pixel])
def test_a_block_that_changes_before_the_scene_is_finished(
    spec: Spec, whole: dict[str, str], change: Callable[[Path], None], monkeypatch: Patch
) -> None:
    def disturbed(*words: Any) -> Any:
        change(min((Path(spec.out) / WORK / "a").glob("*.tif")))
        return finish_scene(*words)

    with monkeypatch.context() as patch:
        patch.setattr(segment, "finish_scene", disturbed)
        with pytest.raises(ResourceError, match=r"a\.tif: cannot be written .*--resume"):
            run(spec)
    assert not (Path(spec.out) / "a.tif").exists()
    run(spec.again())
    assert digests(Path(spec.out)) == whole


@pytest.mark.parametrize("step", ["record", "record_inputs", "record_done"])
def test_a_folder_that_is_removed_during_a_run(spec: Spec, step: str, monkeypatch: Patch) -> None:
    then = getattr(Manifest, step)

    def remove(*words: Any) -> Any:
        shutil.rmtree(spec.out, ignore_errors=True)
        return then(*words)

    monkeypatch.setattr(Manifest, step, remove)
    with pytest.raises(ResourceError, match=r"out.*: cannot be .*written .*; check free"):
        run(spec)
    assert not Path(spec.out).exists()


@pytest.mark.parametrize("batch", ["auto", None])
def test_a_finished_run_has_nothing_to_resume(spec: Spec, batch: str | None) -> None:
    spec = spec.again(resume=False, options={"batch": batch})
    run(spec)
    before = digests(Path(spec.out))
    assert [outcome.row["resumed"] for outcome in run(spec.again())] == [True, True]
    assert digests(Path(spec.out)) == before


SLOW = {"seconds": 0.02}  # for a batch


def test_only_one_run_at_a_time_works_in_a_folder(undisturbed: Undisturbed, tmp_path: Path) -> None:
    first = undisturbed.start(undisturbed.spec_in(tmp_path, model=SLOW))
    wait_for_blocks(tmp_path)
    first.send(signal.SIGSTOP)  # so that it does not end before
    refused = undisturbed.wait(undisturbed.spec_in(tmp_path, resume=True))
    assert refused.code == 2, refused.err
    (said,) = refused.errors
    assert "another mfnet-run works in it; wait for it, or choose another folder with -o" in said
    first.send(signal.SIGCONT)
    assert first.wait().code == 0
    undisturbed.assert_same(tmp_path, "the first was not disturbed")


def test_a_lock_ends_with_its_process(undisturbed: Undisturbed, tmp_path: Path) -> None:
    spec = undisturbed.spec_in(tmp_path, model=SLOW)
    running = undisturbed.start(spec)
    wait_for_blocks(tmp_path)
    running.send(signal.SIGKILL)
    running.wait()
    undisturbed.assert_continues(spec)
