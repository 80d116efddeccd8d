"""What `--check` says about model, output folder and storage, and its text."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import click
import numpy as np
import onnx
import pytest
from preflight_case import (
    Capture,
    Case,
)
from support import RGBD, SHARED, UTM, plan_facts, write_raster, write_rgbd_model, write_scene

from mfnet_runtime.backends.tensorrt.plan_file import sidecar_of
from mfnet_runtime.cli.main import main
from mfnet_runtime.contract import Contract
from mfnet_runtime.files import sha256_from_file
from mfnet_runtime.preflight.rasters import raster_info, storage, strips
from mfnet_runtime.preflight.scene import empty_windows
from mfnet_runtime.raster.limits import DEFAULT_LIMITS
from mfnet_runtime.run.manifest import WORK
from mfnet_runtime.tiling.grid import WindowGrid


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path)


def test_rows_stored_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    array = np.zeros((3, 64, 80), np.uint8)
    monkeypatch.setattr("mfnet_runtime.preflight.rasters.LARGE_BLOCK", 32 * 80 * 3 - 1)
    for tiled, count in ((False, 2), (True, 0)):
        profile = {"blockysize": 32, "tiled": tiled, **({"blockxsize": 32} if tiled else {})}
        path = write_raster(tmp_path / f"{tiled}.tif", array, **profile, **UTM)
        info = raster_info(path, DEFAULT_LIMITS)
        texts = [text for _, text in (*strips(info, 2), *storage(info))]
        assert len(texts) == count
        assert all(": is stored in " in text for text in texts)
        assert not list(strips(info, 1))


def test_a_model_that_cannot_run_ends_as_a_run_does(case: Case, capsys: Capture) -> None:
    command, path = case.command(), case.folder / "rgbd.onnx"
    proto = onnx.load(path)
    proto.graph.node[0].op_type = "Unknown"
    for content, early in ((b"no model", True), (proto.SerializeToString(), False)):
        path.write_bytes(content)
        assert main([*command, "--check", "--json"]) == 3
        out, err = capsys.readouterr()
        assert main(command) == 3
        (error,) = re.findall("error: (.*)", capsys.readouterr().err)
        if early:  # without a contract there is nothing to compare scenes with
            assert f"error: {error}\n" in err
        else:
            assert [one["text"] for one in json.loads(out)["findings"]][:1] == [error]


def test_a_plan_is_compared_with_its_digest_before_it_is_opened(
    case: Case, capsys: Capture
) -> None:
    plan = case.folder / "rgbd.plan"
    plan.write_bytes(b"not opened here")
    facts = plan_facts(Contract(32, RGBD), plan_sha256=sha256_from_file(plan))
    sidecar_of(plan).write_text(facts.to_json())
    command = [str(plan), str(case.folder / "scenes"), "--check", "--json"]
    main(command)
    texts = [one["text"] for one in json.loads(capsys.readouterr().out)["findings"]]
    assert not any("SHA-256" in text for text in texts)
    plan.write_bytes(b"changed")
    assert main(command) in (2, 3)
    summary = json.loads(capsys.readouterr().out)
    assert any("its SHA-256 is" in one["text"] for one in summary["findings"])
    assert summary["scenes"][0]["verdict"] == "ok"


def test_the_output_folder(case: Case, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    (case.out / WORK).mkdir(parents=True)
    usage = shutil.disk_usage(case.folder)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=100))
    code, summary = case.check(capsys)
    assert code == 0
    assert [one["level"] for one in summary["findings"]] == ["warning"] * 2
    texts = [one["text"] for one in summary["findings"]]
    assert "an unfinished run is there; use --resume" in texts[0]
    assert "free some space" in texts[1]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written(case: Case, capsys: Capture) -> None:
    case.folder.chmod(0o500)
    try:
        assert main([*case.command(), "--check"]) == 5
    finally:
        case.folder.chmod(0o700)


def test_only_a_run_needs_an_output_folder(case: Case, capsys: Capture) -> None:
    words = [word for word in case.command() if word not in ("-o", str(case.out))]
    assert main([*words, "--check"]) == 0
    assert main(words) == 2
    assert "no output folder; give one with -o" in capsys.readouterr().err


@pytest.mark.skipif(not (SHARED / "data").is_dir(), reason="../shared/data is not here")
def test_lines_fit_a_terminal(tmp_path: Path, capsys: Capture) -> None:
    autzen = SHARED / "data" / "autzen"
    model = write_rgbd_model(tmp_path / "rgbd.onnx", 256)
    words = [model, autzen / "image_1ft_jpeg.tif", "--dsm", autzen / "dsm" / "west.tif", "--check"]
    assert main([str(word) for word in words]) == 4
    out = capsys.readouterr().out
    assert all(len(click.unstyle(line)) <= 100 for line in out.splitlines())
    for part in (
        "image_1ft_jpeg: refused",
        "  size      3248 x 4385 px                               1104 x 2192 px",
        "  pixel     1 foot (0.3048 m)                            2 foot (0.6096 m)",
        "nodata value -9999 2.11%",
        "with --align: DSM of ",
        "map coordinates are in foot, so heights may be too",
        "1 scene: 0 ok, 0 with warnings, 1 would be refused. Nothing was written.",
    ):
        assert part in out


def test_quiet_shows_only_warnings_and_refusals(case: Case, capsys: Capture) -> None:
    write_scene(case.folder / "scenes", "b")
    case.pixels(lambda pixels: np.full_like(pixels, 9))
    assert main([*case.command(), "--check", "-q"]) == 0
    out = capsys.readouterr().out
    assert "a: warning" in out
    assert "b: " not in out
    assert "  size" not in out
    assert "2 scenes: 1 ok, 1 with warnings, 0 would be refused" in out


@pytest.mark.parametrize(("window", "stride"), [(64, 32), (64, 50), (32, 32), (64, 64)])
def test_empty_windows_are_counted(window: int, stride: int) -> None:
    rng = np.random.default_rng(stride)
    wanted = np.zeros((200, 333), np.bool_)
    for top, left in rng.integers(0, 200, (4, 2)):
        wanted[top : top + 9, left : left + 9] = True
    grid = WindowGrid(200, 333, window, stride)
    empty = [
        not wanted[row.start : row.start + window, column.start : column.start + window].any()
        for row, column in grid
    ]
    assert empty_windows(wanted, grid) == sum(empty) > 0
