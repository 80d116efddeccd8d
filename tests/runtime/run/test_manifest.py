"""A manifest that was damaged: what is lost is made again, and nothing else is believed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from resumed_run import Told, digests, run, write_scenes
from undisturbed import state_in

from mfnet_runtime.errors import UsageError
from mfnet_runtime.run.manifest import FILE, Manifest
from mfnet_runtime.run.progress import SceneWork

SIZES = ((30, 60), (20, 25))


def interrupt_the_last_scene(told: Told) -> Told:
    """Run until it is about to be finished; what goes on with it."""
    finish = SceneWork.finish

    def interrupted(work: SceneWork, *words: Any) -> None:
        if work._scene.name == "b":
            raise KeyboardInterrupt
        finish(work, *words)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SceneWork, "finish", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(told)
    return told.again()


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    folder = tmp_path_factory.mktemp("interrupted")
    told = Told(str(write_scenes(folder / "scenes", SIZES)), str(folder / "out"), layers=False)
    run(told.again(out=str(folder / "whole")))
    return interrupt_the_last_scene(told)


def damaged(told: Told, folder: Path, change: Callable[[list[bytes]], list[bytes]]) -> Told:
    """A copy whose manifest's lines are others."""
    out = shutil.copytree(told.out, folder / "out")
    path = out / FILE
    path.write_bytes(b"".join(change(path.read_bytes().splitlines(keepends=True))))
    return told.again(out=str(out))


def lines(told: Told) -> int:
    return (Path(told.out) / FILE).read_bytes().count(b"\n")


def assert_goes_on(told: Told, whole: Path) -> None:
    run(told)
    assert digests(Path(told.out)) == digests(whole)
    assert state_in(Path(told.out)).ended


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 1.0])
def test_cut_short_at_any_line(told: Told, tmp_path: Path, share: float) -> None:
    whole = Path(told.out).with_name("whole")
    assert lines(told) >= 7
    for index in range(lines(told)):

        def cut(found: list[bytes], index: int = index) -> list[bytes]:
            last = found[index][:-1]
            return [*found[:index], last[: int(share * len(last))]]

        assert_goes_on(damaged(told, tmp_path / str(index), cut), whole)


@pytest.mark.parametrize(
    "garble",
    [
        lambda line: b"",
        lambda line: b"\x00\xff{}\n",
        lambda line: line.replace(b"0", b"1", 1),
        lambda line: line[: len(line) // 2] + line[len(line) // 2 + 1 :],
        lambda line: line.replace(b"\n", b" "),
    ],
    ids=["lost", "garbage", "digit", "byte lost", "two in one"],
)
def test_a_line_that_is_not_what_was_written(
    told: Told, tmp_path: Path, garble: Callable[[bytes], bytes]
) -> None:
    whole = Path(told.out).with_name("whole")
    for index in range(lines(told)):

        def changed(found: list[bytes], index: int = index) -> list[bytes]:
            return [*found[:index], garble(found[index]), *found[index + 1 :]]

        assert_goes_on(damaged(told, tmp_path / str(index), changed), whole)


def test_pieces_of_a_run_whose_line_is_lost_are_not_those_of_the_run_before(
    told: Told, tmp_path: Path
) -> None:
    """Else they would be taken for pieces made with its settings."""
    first = told.again(out=str(tmp_path), resume=False, walk={"stride": 8})
    run(first)
    before, count = digests(tmp_path), lines(first)
    interrupt_the_last_scene(told.again(out=str(tmp_path), resume=False))
    path = tmp_path / FILE
    found = path.read_bytes().splitlines(keepends=True)
    assert b'"record": "run"' in found[count]
    path.write_bytes(b"".join(found[:count] + found[count + 1 :]))
    run(first.again())
    assert digests(tmp_path) == before


def test_another_format_is_refused(told: Told, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    manifest = Manifest(out)
    with pytest.raises(UsageError, match=r"format 'mfnet-manifest/9'.*remove the file, or choose"):
        manifest.append("run", format="mfnet-manifest/9", settings={}, shards=1)
    manifest.close()
    with pytest.raises(UsageError, match="a record is malformed"):
        run(Told(**{**asdict(told), "out": str(out)}))


def test_lines_of_several_processes_never_mix(tmp_path: Path) -> None:
    one, other = Manifest(tmp_path), Manifest(tmp_path)
    one.append("run", format="mfnet-manifest/1", settings={"a": 1}, shards=2)
    other.refresh()
    with (tmp_path / FILE).open("ab") as file:
        file.write(b'{"record": "done", "scene"')  # a third one died
    other.append("failed", scene="b", error="damaged")
    one.append("failed", scene="a", error="damaged")
    for manifest in (one, other):
        assert set(manifest.refresh().scenes) == {"a", "b"}
        manifest.close()
