"""All files of a scene appear together, or none does and the old ones are untouched."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio.shutil
from support import RGBD, UTM, read

from mfnet_runtime import files
from mfnet_runtime.errors import ResourceError, SceneError
from mfnet_runtime.labels import ClassTable
from mfnet_runtime.raster import geotiff
from mfnet_runtime.raster.geotiff import Block, BlockWriter
from mfnet_runtime.run import finish
from mfnet_runtime.run.finish import finish_scene
from mfnet_runtime.run.options import VectorOptions
from mfnet_runtime.run.outputs import CLASSES_TAG, OutputPaths
from mfnet_runtime.run.plan import ScenePlan
from mfnet_runtime.run.task import Task, stack
from mfnet_runtime.scene.discovery import Scene
from mfnet_runtime.scene.normalize import DsmRange
from mfnet_runtime.scene.options import ReadOptions
from mfnet_runtime.scene.reader import ReadReport
from mfnet_runtime.tiling.classes import FinishedRows
from mfnet_runtime.tiling.grid import WindowGrid
from mfnet_runtime.tiling.options import SegmentOptions

SHAPE = (300, 70)
EVERYTHING = SegmentOptions(confidence=True, probabilities=True)
CLASSES = np.random.default_rng(0).integers(0, 4, SHAPE, dtype=np.uint8)
PERCENT = np.random.default_rng(1).integers(0, 101, (4, *SHAPE), dtype=np.uint8)
BANDS = stack(FinishedRows(CLASSES, PERCENT[0], PERCENT))
RASTERS = ["a.confidence.tif", "a.probabilities.tif", "a.tif"]
POLYGON_FILES = ["a.cpg", "a.dbf", "a.prj", "a.shp", "a.shx"]
FILES = sorted([*RASTERS, *POLYGON_FILES, "a.confidence.qml", "a.qml", "a.tif.aux.xml"])
POLYGONS = VectorOptions("shp")


def finished(folder: Path, classes: ClassTable = RGBD) -> Any:
    """Write blocks and finish them."""
    work = folder / "work"
    work.mkdir(exist_ok=True)
    scene, span = Scene("a", Path("a.tif"), Path("d.tif")), DsmRange(1.5, 9)
    grid, blocks = WindowGrid(*SHAPE, 32, 16), []
    for left in (0, 40):
        with BlockWriter(work / f"{left}.tif", len(BANDS), (300, min(40, 70 - left))) as writer:
            writer.write(BANDS[:, :, left : left + 40])
        columns = range(left, min(left + 40, 70))
        blocks.append(Block(work / f"{left}.tif", columns, range(300), writer.checksums))
    place = range(300), range(70)
    task = Task(scene, grid, span, (), "", ReadOptions(), EVERYTHING, work, place, 0)
    plan = ScenePlan(scene, (), span, (task,), work, SHAPE, UTM, ReadReport(None, None, ()), ())
    paths = OutputPaths.of(folder, "a", EVERYTHING, POLYGONS)
    return finish_scene(plan, blocks, paths, classes, POLYGONS, {"MFNET_STRIDE": "32"})


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_file())


def write_old(folder: Path) -> None:
    for name in FILES:
        (folder / name).write_bytes(b"old")


def assert_old(folder: Path) -> None:
    assert files_in(folder) == FILES
    assert {(folder / name).read_bytes() for name in FILES} == {b"old"}
    assert list((folder / "work").glob(".*")) == [], "temporary files are removed"


def test_every_file_holds_what_was_written(tmp_path: Path) -> None:
    files, areas = finished(tmp_path)
    assert files_in(tmp_path) == FILES == sorted(files)
    np.testing.assert_array_equal(read(tmp_path / "a.tif"), CLASSES)
    np.testing.assert_array_equal(read(tmp_path / "a.confidence.tif"), PERCENT[0])
    np.testing.assert_array_equal(read(tmp_path / "a.probabilities.tif", None), PERCENT)
    for name in RASTERS:
        with rasterio.open(tmp_path / name) as found:
            tags = found.tags()
        assert ClassTable.from_json(json.loads(tags[CLASSES_TAG])) == RGBD
        assert (tags["MFNET_STRIDE"], tags["MFNET_DSM_LOW"]) == ("32", "1.5")
    assert areas.m2 == (np.bincount(CLASSES.ravel()) * 0.25).tolist()


def test_gdal_finds_the_names_of_the_classes(tmp_path: Path) -> None:
    finished(tmp_path, replace(RGBD, names=("Wald & Wiese", "<Straße>", "x", "y")))
    rasterio.shutil.copy(tmp_path / "a.tif", tmp_path / "a.vrt", driver="VRT")
    described = (tmp_path / "a.vrt").read_text(encoding="utf-8")
    assert "<Category>Wald &amp; Wiese</Category>" in described
    assert "<Category>&lt;Straße&gt;</Category>" in described


@pytest.mark.parametrize("call", ["write_mosaic", "copy_to_cog"])
@pytest.mark.parametrize("at", [1, 3])
@pytest.mark.parametrize("fault", [OSError("No space left"), KeyboardInterrupt()])
def test_an_error_leaves_all_old_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, at: int, fault: BaseException
) -> None:
    write_old(tmp_path)
    sound, calls = getattr(geotiff, call), 0

    def fails(*words: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == at:
            raise fault
        return sound(*words)

    monkeypatch.setattr(geotiff, call, fails)
    with pytest.raises((ResourceError, KeyboardInterrupt)) as caught:
        finished(tmp_path)
    assert isinstance(caught.value, ResourceError) == isinstance(fault, OSError)
    assert_old(tmp_path)


def test_bytes_are_on_disk_before_names_and_the_class_map_comes_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    rename, replace_files = os.replace, files.replace_files

    def renamed(old: Path, new: Path) -> None:
        calls.append(new.name)
        rename(old, new)

    def replacing(pairs: Any) -> None:
        calls.clear()
        replace_files(pairs)

    monkeypatch.setattr(os, "replace", renamed)
    monkeypatch.setattr(os, "fsync", lambda handle: calls.append("sync"))
    monkeypatch.setattr(finish, "replace_files", replacing)
    finished(tmp_path)
    count = len(FILES)
    assert calls[:count] == ["sync"] * count
    assert sorted(calls[count:-1]) == FILES
    assert calls[-2:] == ["a.tif", "sync"], "the folder's names too"


def test_polygons_need_georeferencing(tmp_path: Path) -> None:
    paths = OutputPaths.of(tmp_path, "a", SegmentOptions(), POLYGONS)
    with pytest.raises(SceneError, match="ground control points"):
        paths.require_polygons_possible({"gcps": [], "crs": "EPSG:32632"}, 3, POLYGONS)
    with pytest.raises(SceneError, match="has no CRS, and --vectors shp needs one"):
        paths.require_polygons_possible({}, 3, POLYGONS)
    with pytest.raises(SceneError, match="leave out --min-area"):
        paths.require_polygons_possible({}, 3, VectorOptions("fgb", min_area=3))
    paths.require_polygons_possible({}, 3, VectorOptions("gpkg"))


@pytest.mark.parametrize(("length", "fits"), [(243, True), (244, False)])
def test_names_that_are_too_long_are_refused_before_any_work(
    tmp_path: Path, length: int, fits: bool
) -> None:
    paths = OutputPaths.of(tmp_path, "n" * length, SegmentOptions(), VectorOptions())
    if fits:
        paths.require_short_names()
        paths.names.touch()
    else:
        with pytest.raises(SceneError, match="rename the scene"):
            paths.require_short_names()
