"""Rasters, folders and tables as other people write them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support import read, rgbd_classes, write_rgbd_model

from mfnet.cli import main as train
from mfnet_bench.cli import main as bench
from mfnet_runtime.cli.main import main as run

Case = Callable[[str], Path]
Capture = pytest.CaptureFixture[str]
TINY = "--from-scratch --backbone tiny --window 64 --epochs 1 --steps 2 --batch 2".split()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_rgbd_model(tmp_path / "rgbd.onnx")


def words(*given: object) -> list[str]:
    return [str(word) for word in given]


def expected(image: Path, dsm: Path) -> np.ndarray:
    """The classes that the model gives where image and DSM share a grid."""
    heights = read(dsm).astype(np.float32)
    scaled = (heights - heights.min()) / (heights.max() - heights.min())
    return rgbd_classes(read(image, None)[:3], scaled)


def test_one_crs_written_in_two_ways(case: Case, model: Path, tmp_path: Path) -> None:
    folder = case("crs-same-but-refused")
    assert run(words(model, folder, "-o", tmp_path / "out")) == 0
    found = read(tmp_path / "out" / "a.tif")
    np.testing.assert_array_equal(found, expected(folder / "image/a.tif", folder / "dsm/a.tif"))
    assert train(words(folder, "-o", tmp_path / "run", *TINY)) == 0


def test_an_ascii_grid_with_the_crs_beside_it(case: Case, model: Path, tmp_path: Path) -> None:
    folder = case("crs-asc-prj")
    image, dsm = folder / "ortho.tif", folder / "heights.asc"
    given = words(model, image, "--dsm", dsm, "--allow-driver", "AAIGrid", "-o", tmp_path / "out")
    assert run(given) == 0
    np.testing.assert_array_equal(read(tmp_path / "out" / "ortho.tif"), expected(image, dsm))


def test_control_points_cannot_be_aligned(
    case: Case, model: Path, tmp_path: Path, capsys: Capture
) -> None:
    folder, out = case("gcp-only-align"), tmp_path / "out"
    image, warped, dsm = (
        folder / name for name in ("ortho.tif", "ortho_north_up.tif", "heights.tif")
    )
    assert run(words(model, image, "--dsm", dsm, "--align", "-o", out)) == 4
    assert not list(out.glob("*.tif"))
    command = "gdalwarp -r cubic ortho.tif ortho_warped.tif"
    assert command in capsys.readouterr().err
    assert run(words(model, image, "--dsm", dsm, "--align", "--check")) == 4
    assert command in capsys.readouterr().out
    assert run(words(model, warped, "--dsm", dsm, "--align", "-o", out)) == 0
    np.testing.assert_array_equal(read(out / "ortho_north_up.tif"), expected(warped, dsm))


@pytest.mark.parametrize(
    ("layout", "image", "dsm", "options"),
    [
        ("jp2", "a.jp2", "a.tif", "--allow-driver JP2OpenJPEG"),
        ("asc", "a.tif", "a.asc", "--allow-driver AAIGrid"),
        ("preview", "a.tif", "a.tif", ""),
    ],
)
def test_formats_in_folders(
    case: Case, model: Path, tmp_path: Path, layout: str, image: str, dsm: str, options: str
) -> None:
    folder = case("formats-in-folders") / layout
    assert run(words(model, folder, *options.split(), "-o", tmp_path / "out")) == 0
    np.testing.assert_array_equal(
        read(tmp_path / "out" / "a.tif"), expected(folder / "image" / image, folder / "dsm" / dsm)
    )


@pytest.mark.parametrize(("table", "name"), [("semicolons.csv", "a"), ("capitals.csv", "ortho")])
def test_tables_from_excel(case: Case, model: Path, tmp_path: Path, table: str, name: str) -> None:
    folder = case("csv-as-excel-writes-it")
    assert run(words(model, folder / table, "-o", tmp_path / "out")) == 0
    np.testing.assert_array_equal(
        read(tmp_path / "out" / f"{name}.tif"),
        expected(folder / "ortho.tif", folder / "heights.tif"),
    )


def test_near_infrared_flagged_as_alpha(
    case: Case, model: Path, tmp_path: Path, capsys: Capture
) -> None:
    folder, option = case("nir-flagged-alpha"), "--ignore-alpha"
    for more in (["--check"], ["-o", tmp_path / "masked"]):
        assert run(words(model, folder, *more)) == 0
        said = " ".join("".join(capsys.readouterr()).split())
        assert "80.4% of its values are neither transparent nor opaque" in said
        assert option in said
    assert run(words(model, folder, option, "-o", tmp_path / "out")) == 0
    np.testing.assert_array_equal(
        read(tmp_path / "out" / "a.tif"), expected(folder / "image/a.tif", folder / "dsm/a.tif")
    )
    assert train(words(folder, "-o", tmp_path / "run", option, *TINY)) == 0
    best = tmp_path / "run" / "best.pt"
    assert [labels_left_out(capsys, best, folder, *more) for more in ([], [option])] == [3217, 0]


def test_training_and_scores_with_a_dsm_on_another_grid(
    case: Case, tmp_path: Path, capsys: Capture
) -> None:
    folder, out = case("train-dsm-other-grid"), tmp_path / "run"
    assert train(words(folder, "-o", out, *TINY)) == 4
    assert "--align" in capsys.readouterr().err
    assert train(words(folder, "-o", out, "--align", *TINY)) == 0
    assert "a: DSM of 64 x 64 px of 0.5 metre" in capsys.readouterr().err
    assert bench(words("miou", out / "best.pt", folder)) == 4
    assert labels_left_out(capsys, out / "best.pt", folder, "--align") == 0


def labels_left_out(capsys: Capture, *given: object) -> int:
    """The labelled pixels of scenes that `mfnet-bench miou` cannot score."""
    capsys.readouterr()
    assert bench(words("miou", *given, "--json")) == 0
    (row,) = json.loads(capsys.readouterr().out)
    return int(row["unpredicted"])
