"""A damaged manifest: what it lost is done again, and nothing else is believed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from runs import Spec, digests, run, write_scenes
from undisturbed import state_in

from mfnet_runtime.errors import UsageError
from mfnet_runtime.run.manifest import FILE, Manifest
from mfnet_runtime.run.options import ResumeOptions

SIZES = ((30, 60), (20, 25))


def interrupt_the_last_scene(spec: Spec) -> Spec:
    """Run until the last scene is about to be done; returns the run that continues."""
    record_done = Manifest.record_done

    def interrupted(manifest: Manifest, scene: str, *words: Any) -> None:
        if scene == "b":
            raise KeyboardInterrupt
        record_done(manifest, scene, *words)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Manifest, "record_done", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(spec)
    return spec.again()


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> Spec:
    folder = tmp_path_factory.mktemp("interrupted")
    scenes = str(write_scenes(folder / "scenes", SIZES))
    spec = Spec(scenes, str(folder / "out"), layers=False, rows=32)
    run(spec.again(out=str(folder / "whole")))
    return interrupt_the_last_scene(spec)


def lines(spec: Spec) -> list[bytes]:
    return (Path(spec.out) / FILE).read_bytes().splitlines(keepends=True)


def assert_continues(spec: Spec, folder: Path, changed: list[bytes]) -> None:
    """Continue a copy with another manifest, and expect the same bytes."""
    out = shutil.copytree(spec.out, folder / "out")
    (out / FILE).write_bytes(b"".join(changed))
    run(spec.again(out=str(out)))
    assert digests(out) == digests(Path(spec.out).with_name("whole"))
    assert state_in(out).ended


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 1.0])
def test_cut_short_at_any_line(spec: Spec, tmp_path: Path, share: float) -> None:
    found = lines(spec)
    assert len(found) >= 7
    for index, line in enumerate(found):
        last = line[: int(share * (len(line) - 1))]
        assert_continues(spec, tmp_path / str(index), [*found[:index], last])


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
    spec: Spec, tmp_path: Path, garble: Callable[[bytes], bytes]
) -> None:
    found = lines(spec)
    for index in range(len(found)):
        changed = [*found[:index], garble(found[index]), *found[index + 1 :]]
        assert_continues(spec, tmp_path / str(index), changed)


def test_records_of_a_run_whose_line_is_lost_do_not_count(spec: Spec, tmp_path: Path) -> None:
    """They would be taken for those of the run before, which had other settings."""
    first = spec.again(out=str(tmp_path), resume=False, options={"stride": 8})
    run(first)
    before, count = digests(tmp_path), len(lines(first))
    interrupt_the_last_scene(spec.again(out=str(tmp_path), resume=False))
    found = lines(first)
    assert b'"record": "run"' in found[count]
    (tmp_path / FILE).write_bytes(b"".join(found[:count] + found[count + 1 :]))
    run(first.again())
    assert digests(tmp_path) == before


def test_another_format_is_refused(spec: Spec, tmp_path: Path) -> None:
    with Manifest(tmp_path, {}, ResumeOptions(), []) as manifest:
        for record in ({"format": "mfnet-manifest/9", "values": {}}, {}):
            with pytest.raises((ValueError, KeyError)):
                manifest.append("run", **record)
            with pytest.raises(UsageError, match=r"malformed .*; remove the file, or choose"):
                run(spec.again(out=shutil.copytree(tmp_path, tmp_path / "copy")))
            shutil.rmtree(tmp_path / "copy")
