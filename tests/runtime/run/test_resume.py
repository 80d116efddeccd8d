"""Resuming a run: with the same settings and the same inputs only."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from runs import Spec, digests, interrupt, records, run

from mfnet_runtime.errors import UsageError
from mfnet_runtime.run import provenance
from mfnet_runtime.run.manifest import Manifest
from mfnet_runtime.run.segment import SceneOutcome
from mfnet_runtime.run.task import Receipt

Patch = pytest.MonkeyPatch


def statuses(outcomes: list[SceneOutcome]) -> list[str]:
    return [outcome.row["status"] for outcome in outcomes]


def errors(outcomes: list[SceneOutcome]) -> str:
    return " ".join(outcome.error or "" for outcome in outcomes)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"options": {"stride": 8}}, "stride was 16 in the run there, and is 8 now"),
        ({"options": {"blend": "centre"}}, "blend was "),
        ({"options": {"dsm_range": (90.0, 130.0)}}, "dsm_range was None"),
        ({"read": {"bands": (3, 2, 1)}}, "bands was None"),
        ({"read": {"nodata_image": 0.0}}, "nodata_image was None"),
        ({"read": {"image_range": (0.0, 200.0)}}, "image_range was None"),
        ({"read": {"align": True}}, "align was None"),
        ({"read": {"bbox": (500_005, 5_399_980, 500_030, 5_399_995)}}, "areas was []"),
        ({"layers": False}, "confidence was True"),
        ({"vectors": "fgb"}, "vectors was None"),
        ({"tags": {"MFNET_MODEL_SHA256": "cd"}}, "MFNET_MODEL_SHA256 was ab"),
        ({"model": {"precision": "bf16"}}, "precision was fp32"),
        ({"dsm_band": 1}, "dsm_band was None in the run there, and is 1 now"),
    ],
)
def test_other_settings_are_refused_by_name(
    spec: Spec, changes: dict[str, Any], field: str
) -> None:
    again = interrupt(spec.again(resume=False, tags={"MFNET_MODEL_SHA256": "ab"}), 1)
    with pytest.raises(UsageError, match="use the same as before, or add --restart") as caught:
        run(again.again(**changes))
    assert field in str(caught.value)


def test_another_version_is_refused(spec: Spec, monkeypatch: Patch) -> None:
    again = interrupt(spec)
    monkeypatch.setattr(provenance, "installed_version", lambda name: "99.0")
    with pytest.raises(UsageError, match=r"version was .* and is 99\.0 now"):
        run(again)


@pytest.mark.parametrize(
    "changes",
    [
        {"options": {"batch": 1}},
        {"options": {"block": None, "max_memory": 1 << 30}},
        {"read": {"max_pixels": 1 << 20}},
        {"model": {"threads": 7}},
    ],
)
def test_what_changes_no_pixel_may_change(
    spec: Spec, whole: dict[str, str], changes: dict[str, Any]
) -> None:
    run(interrupt(spec).again(**changes))
    assert digests(Path(spec.out)) == whole


def rewrite(path: Path) -> None:
    with rasterio.open(path, "r+") as raster:
        raster.write(np.zeros((4, 4), raster.dtypes[0]), 1, window=((0, 4), (0, 4)))
    os.utime(path, (10**9, 10**9))


def add_mask(path: Path) -> None:
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(path, "r+") as raster:
        raster.write_mask(np.eye(*raster.shape) > 0)
    assert path.with_name("a.tif.msk").exists()


@pytest.mark.parametrize(
    ("part", "change", "said"),
    [
        ("image", rewrite, "image/a.tif: has changed since the run began; put the old file back"),
        ("dsm", rewrite, "dsm/a.tif: has changed since the run began; put the old file back"),
        ("dsm", Path.unlink, "dsm/a.tif: scene 'a' has no dsm there"),
        ("image", add_mask, "image/a.tif.msk: did not exist when the run began; remove it"),
    ],
)
def test_a_changed_input_fails_its_scene_until_it_is_back(
    spec: Spec, whole: dict[str, str], part: str, change: Callable[[Path], None], said: str
) -> None:
    again, path = interrupt(spec), Path(spec.scenes) / part / "a.tif"
    kept = shutil.copy2(path, path.with_suffix(".kept"))
    change(path)
    if change is add_mask:  # the image itself is as before
        shutil.copystat(kept, path)
    outcomes = run(again)
    assert statuses(outcomes) == ["failed", "done"]
    assert said in errors(outcomes)
    path.with_name("a.tif.msk").unlink(missing_ok=True)
    Path(kept).replace(path)
    assert statuses(run(again)) == ["done", "done"]
    assert digests(Path(spec.out)) == whole


def test_an_input_that_is_mended_after_its_scene_failed(spec: Spec, whole: dict[str, str]) -> None:
    path = Path(spec.scenes) / "dsm" / "a.tif"
    good = path.read_bytes()
    with rasterio.open(path, "r+") as raster:
        raster.crs = "EPSG:4326"
    assert statuses(run(spec)) == ["failed", "done"]
    path.write_bytes(good)
    assert statuses(run(spec.again())) == ["done", "done"]
    assert digests(Path(spec.out)) == whole


def test_an_input_that_was_only_touched_is_the_same(spec: Spec, whole: dict[str, str]) -> None:
    again = interrupt(spec)
    os.utime(Path(spec.scenes) / "dsm" / "a.tif")
    assert statuses(run(again)) == ["done", "done"]
    assert len(records(spec, "scene")) == 2, "continued, not begun anew"
    assert digests(Path(spec.out)) == whole


def test_an_input_that_changes_while_it_is_read(spec: Spec, monkeypatch: Patch) -> None:
    """For example one that is still being copied."""
    path, record = Path(spec.scenes) / "dsm" / "a.tif", Manifest.record

    def change(manifest: Manifest, receipt: Receipt) -> None:
        record(manifest, receipt)
        rewrite(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Manifest, "record", change)
        outcomes = run(spec)
    assert statuses(outcomes) == ["failed", "done"]
    assert "dsm/a.tif: has changed since the run began" in errors(outcomes)
    assert not (Path(spec.out) / "a.tif").exists()
    assert statuses(run(spec.again(resume=False, restart=True))) == ["done", "done"]


def test_a_scene_that_came_later(spec: Spec, whole: dict[str, str], tmp_path: Path) -> None:
    for part in ("image", "dsm"):
        (tmp_path / "first" / part).mkdir(parents=True)
        shutil.copy2(tmp_path / "scenes" / part / "a.tif", tmp_path / "first" / part)
    run(spec.again(resume=False, scenes=str(tmp_path / "first")))
    assert [outcome.row["resumed"] for outcome in run(spec.again())] == [True, False]
    assert digests(Path(spec.out)) == whole


def test_an_input_changed_after_its_scene_was_done(spec: Spec) -> None:
    run(spec)
    path = Path(spec.scenes) / "dsm" / "a.tif"
    kept = shutil.copy2(path, path.with_suffix(".kept"))
    rewrite(path)
    assert statuses(run(spec.again())) == ["failed", "done"]
    Path(kept).replace(path)
    done = run(spec.again())
    assert [outcome.row["resumed"] for outcome in done] == [True, True], "its work is kept"
