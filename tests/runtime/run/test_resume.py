"""Going on with a run: with the same settings and the same inputs only."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from interrupted import interrupt, records, statuses
from resumed_run import Told, digests, run

from mfnet_runtime.errors import UsageError
from mfnet_runtime.run import provenance
from mfnet_runtime.run.manifest import Piece
from mfnet_runtime.run.progress import SceneWork

Capture = pytest.CaptureFixture[str]
Patch = pytest.MonkeyPatch


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"walk": {"stride": 8}}, "stride was 16 in the run there, and is 8 now"),
        ({"walk": {"blend": "centre"}}, "blend was "),
        ({"walk": {"dsm": ("range", 90.0, 130.0)}}, "dsm was None"),
        ({"read": {"bands": (3, 2, 1)}}, "bands was None"),
        ({"read": {"image_nodata": 0.0}}, "image_nodata was None"),
        ({"read": {"dsm_nodata": -1.0}}, "dsm_nodata was None"),
        ({"read": {"image_range": (0.0, 200.0)}}, "image_range was None"),
        ({"read": {"align": "nearest"}}, "align was None"),
        ({"read": {"box": (500_005, 5_399_980, 500_030, 5_399_995)}}, "areas was []"),
        ({"layers": False}, "layers was"),
        ({"vectors": "fgb"}, "vectors was None"),
        ({"tags": {"MFNET_MODEL_SHA256": "cd"}}, "MFNET_MODEL_SHA256 was ab"),
        ({"model": {"precision": "bf16"}}, "precision was fp32"),
        ({"model": {"device": "other"}}, "device was test"),
        ({"dsm_band": 1}, "dsm_band was None in the run there, and is 1 now"),
    ],
)
def test_other_settings_are_refused_by_name(
    told: Told, changes: dict[str, Any], field: str
) -> None:
    again = interrupt(told.again(resume=False, tags={"MFNET_MODEL_SHA256": "ab"}))
    with pytest.raises(UsageError, match="choose as then, or add --restart") as caught:
        run(again.again(**changes))
    assert field in str(caught.value)


def test_another_version_is_refused(told: Told, monkeypatch: Patch) -> None:
    again = interrupt(told)
    monkeypatch.setattr(provenance, "installed_version", lambda name: "99.0")
    with pytest.raises(UsageError, match=r"version was .* and is 99\.0 now"):
        run(again)


@pytest.mark.parametrize(
    "changes",
    [
        {"walk": {"batch": 1}},
        {"walk": {"block": 24}},
        {"walk": {"block": 100}},
        {"walk": {"block": None, "max_memory": 1 << 30}},
        {"read": {"max_pixels": 1 << 20}},
        {"model": {"threads": 7}},
        {"checkpoint": 60.0},
    ],
)
def test_what_changes_no_pixel_may_change(
    told: Told, whole: dict[str, str], changes: dict[str, Any]
) -> None:
    again = interrupt(told)
    if "block" in changes.get("walk", {}):
        again = again.again(walk={**again.walk, **changes["walk"]})
    run(again.again(**changes))
    assert digests(Path(told.out)) == whole


def rewritten(path: Path) -> None:
    with rasterio.open(path, "r+") as raster:
        raster.write(np.zeros((4, 4), raster.dtypes[0]), 1, window=((0, 4), (0, 4)))
    os.utime(path, (10**9, 10**9))


def masked(path: Path) -> None:
    """A file beside it, which was not there."""
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(path, "r+") as raster:
        raster.write_mask(np.eye(*raster.shape) > 0)
    assert path.with_name("a.tif.msk").exists()


@pytest.mark.parametrize(
    ("part", "change", "said"),
    [
        ("image", rewritten, "image/a.tif: is not the file it was when the run began; put"),
        ("dsm", rewritten, "dsm/a.tif: is not the file it was when the run began; put"),
        ("dsm", Path.unlink, "dsm/a.tif: scene 'a' has no dsm there"),
        ("image", masked, "image/a.tif.msk: was not there when the run began; remove it"),
    ],
)
def test_another_input_fails_its_scene_until_it_is_back(
    told: Told,
    whole: dict[str, str],
    part: str,
    change: Callable[[Path], None],
    said: str,
    capsys: Capture,
) -> None:
    again, path = interrupt(told), Path(told.scenes) / part / "a.tif"
    kept = shutil.copy2(path, path.with_suffix(".kept"))
    change(path)
    if change is masked:  # so that the image itself is as before
        shutil.copystat(kept, path)
    assert statuses(run(again)) == ["failed", "done"]
    assert said in capsys.readouterr().err
    path.with_name("a.tif.msk").unlink(missing_ok=True)
    Path(kept).replace(path)
    assert statuses(run(again)) == ["done", "done"]
    assert digests(Path(told.out)) == whole


def test_an_input_that_was_mended_after_its_scene_failed(told: Told, whole: dict[str, str]) -> None:
    """Then another file is what is wanted."""
    path = Path(told.scenes) / "dsm" / "a.tif"
    good = path.read_bytes()
    path.write_bytes(good[:500] + bytes(len(good) - 500))
    rewritten(path)
    with rasterio.open(path, "r+") as raster:
        raster.crs = "EPSG:4326"
    assert statuses(run(told)) == ["failed", "done"]
    path.write_bytes(good)
    assert statuses(run(told.again())) == ["done", "done"]
    assert digests(Path(told.out)) == whole


def test_an_input_that_was_only_touched_is_the_same(told: Told, whole: dict[str, str]) -> None:
    again = interrupt(told)
    os.utime(Path(told.scenes) / "dsm" / "a.tif")
    assert statuses(run(again)) == ["done", "done"]
    assert len(records(told, "scene")) == 2, "goes on, does not begin anew"
    assert digests(Path(told.out)) == whole


def test_an_input_that_changes_while_it_is_read(
    told: Told, capsys: Capture, monkeypatch: Patch
) -> None:
    """As one that is still being copied: some pixels are of the one, some of the other."""
    path, note = Path(told.scenes) / "dsm" / "a.tif", SceneWork.note

    def changed(work: SceneWork, piece: Piece) -> None:
        note(work, piece)
        rewritten(path)

    monkeypatch.setattr(SceneWork, "note", changed)
    assert statuses(run(told)) == ["failed", "done"]
    assert "dsm/a.tif: is not the file it was when the run began" in capsys.readouterr().err
    assert not (Path(told.out) / "a.tif").exists()
    run(told.again(resume=False, restart=True))


def test_a_scene_that_came_later(told: Told, whole: dict[str, str], tmp_path: Path) -> None:
    both = tmp_path / "scenes"
    for part in ("image", "dsm"):
        (tmp_path / "first" / part).mkdir(parents=True)
        shutil.copy2(both / part / "a.tif", tmp_path / "first" / part)
    run(told.again(resume=False, scenes=str(tmp_path / "first")))
    assert [outcome.row["resumed"] for outcome in run(told.again())] == [True, False]
    assert digests(Path(told.out)) == whole


def test_an_input_changed_after_its_scene_was_done(told: Told, capsys: Capture) -> None:
    run(told)
    path = Path(told.scenes) / "dsm" / "a.tif"
    kept = shutil.copy2(path, path.with_suffix(".kept"))
    rewritten(path)
    assert statuses(run(told.again())) == ["failed", "done"]
    Path(kept).replace(path)
    done = run(told.again())
    assert [outcome.row["resumed"] for outcome in done] == [True, True], "its work is kept"


def test_only_what_is_missing_is_made_again(told: Told, whole: dict[str, str]) -> None:
    again = interrupt(told, 5)
    outcomes = run(again)
    undisturbed = run(told.again(out=told.out + "2"))
    assert outcomes[0].row["windows"] < undisturbed[0].row["windows"]
    assert digests(Path(told.out)) == whole
    assert [outcome.row["resumed"] for outcome in run(again)] == [True, True]
