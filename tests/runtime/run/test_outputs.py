"""All files of a scene appear together, or none does and the old ones are untouched."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio.shutil
from support import RGBD, UTM, read

from mfnet_runtime.errors import ResourceError, SceneError
from mfnet_runtime.labels import ClassTable
from mfnet_runtime.raster import cog
from mfnet_runtime.raster.geotiff import LayerFile
from mfnet_runtime.raster.polygons import VectorOptions
from mfnet_runtime.run.classmap import CLASSES_TAG
from mfnet_runtime.run.outputs import SceneOutputs
from mfnet_runtime.run.paths import OutputPaths
from mfnet_runtime.tiling.classes import FinishedRows
from mfnet_runtime.tiling.options import SegmentOptions

SHAPE = (300, 70)
EVERYTHING = SegmentOptions(confidence=True, probabilities=True)
CLASSES = np.random.default_rng(0).integers(0, 4, SHAPE, dtype=np.uint8)
PERCENT = np.random.default_rng(1).integers(0, 101, (4, *SHAPE), dtype=np.uint8)
DONE = FinishedRows(CLASSES, PERCENT[0], PERCENT)
FILES = ["a.confidence.tif", "a.fgb", "a.probabilities.tif", "a.tif", "a.tif.aux.xml"]


def outputs(folder: Path, classes: ClassTable = RGBD, **changes: Any) -> SceneOutputs:
    vectors = changes.pop("vectors", VectorOptions("fgb"))
    paths = OutputPaths.of(folder, "a", EVERYTHING, vectors)
    return SceneOutputs(paths, SHAPE, classes, changes or UTM, {"MFNET_STRIDE": "32"}, vectors)


def write_old(folder: Path) -> None:
    for name in FILES:
        (folder / name).write_bytes(b"old")


def assert_old(folder: Path) -> None:
    assert sorted(os.listdir(folder)) == FILES
    assert {(folder / name).read_bytes() for name in FILES} == {b"old"}


def test_every_file_is_there_at_the_end_and_none_before(tmp_path: Path) -> None:
    with outputs(tmp_path) as target:
        target.write(DONE)
        target.tag(MFNET_DSM_LOW="1.5")
        assert list(tmp_path.glob("a*")) == []
    assert sorted(os.listdir(tmp_path)) == FILES
    np.testing.assert_array_equal(read(tmp_path / "a.tif"), CLASSES)
    np.testing.assert_array_equal(read(tmp_path / "a.confidence.tif"), PERCENT[0])
    np.testing.assert_array_equal(read(tmp_path / "a.probabilities.tif", None), PERCENT)
    for name in ("a.tif", "a.confidence.tif", "a.probabilities.tif"):
        with rasterio.open(tmp_path / name) as found:
            tags = found.tags()
        assert ClassTable.from_json(json.loads(tags[CLASSES_TAG])) == RGBD
        assert (tags["MFNET_STRIDE"], tags["MFNET_DSM_LOW"]) == ("32", "1.5")
    assert target.areas.m2 == (np.bincount(CLASSES.ravel()) * 0.25).tolist()


def test_gdal_finds_the_names_of_the_classes(tmp_path: Path) -> None:
    names = ("Wald & Wiese", "<Straße>", "x", "y")
    with outputs(tmp_path, replace(RGBD, names=names)) as target:
        target.write(DONE)
    rasterio.shutil.copy(tmp_path / "a.tif", tmp_path / "a.vrt", driver="VRT")
    described = (tmp_path / "a.vrt").read_text(encoding="utf-8")
    assert "<Category>Wald &amp; Wiese</Category>" in described
    assert "<Category>&lt;Straße&gt;</Category>" in described


def test_outputs_are_the_same_bytes_again(tmp_path: Path) -> None:
    folders = [tmp_path / "1", tmp_path / "2"]
    for folder in folders:
        folder.mkdir()
        with outputs(folder) as target:
            target.write(DONE)
    for name in FILES:
        first, again = ((folder / name).read_bytes() for folder in folders)
        assert first == again, name


def test_an_exception_leaves_the_old_files_and_nothing_else(tmp_path: Path) -> None:
    write_old(tmp_path)

    def interrupted() -> None:
        with outputs(tmp_path) as target:
            target.write(DONE)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert_old(tmp_path)


@pytest.mark.parametrize("call", ["write", "finish", "__init__"])
@pytest.mark.parametrize("at", [1, 3])
@pytest.mark.parametrize("fault", [OSError("No space left"), KeyboardInterrupt()])
def test_a_fault_of_any_file_leaves_all_old_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, at: int, fault: BaseException
) -> None:
    write_old(tmp_path)
    sound, calls = getattr(LayerFile, call), 0

    def fails(*words: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == at:
            raise fault
        return sound(*words)

    monkeypatch.setattr(LayerFile, call, fails)

    def run() -> None:
        with outputs(tmp_path) as target:
            target.write(DONE)

    with pytest.raises((ResourceError, KeyboardInterrupt)) as caught:
        run()
    assert isinstance(caught.value, ResourceError) == isinstance(fault, OSError)
    assert_old(tmp_path)


def test_bytes_are_on_the_disk_before_names_and_the_class_map_comes_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    rename = os.replace

    def renamed(old: Path, new: Path) -> None:
        calls.append(new.name)
        rename(old, new)

    monkeypatch.setattr(os, "replace", renamed)
    monkeypatch.setattr(os, "fsync", lambda handle: calls.append("sync"))
    with outputs(tmp_path) as target:
        target.write(DONE)
    assert calls[:5] == ["sync"] * 5
    assert sorted(calls[5:10]) == FILES
    assert calls[9:] == ["a.tif", "sync"], "the folder's names too"


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="check free space and write permission"):
        outputs(tmp_path / "absent").__enter__()


LIMITED = """
import resource, signal, sys
sys.path[:] = {path!r}
import test_outputs as here
from pathlib import Path
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
try:
    with here.outputs(Path({folder!r})) as target:
        target.write(here.DONE)
except here.ResourceError as fault:
    print(fault)
"""


@pytest.mark.parametrize("share", [0.001, 0.4, 0.97])
def test_a_disk_that_is_full_at_any_time(tmp_path: Path, share: float) -> None:
    """A limit of the file size stands for it: writing fails from some byte on."""
    folder = tmp_path / "out"
    folder.mkdir()
    with outputs(folder) as target:
        target.write(DONE)
    limit = int(share * max((folder / name).stat().st_size for name in FILES[:1]))
    write_old(folder)
    path = [str(Path(__file__).parent), *sys.path]
    code = LIMITED.format(path=path, limit=limit, folder=str(folder))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "check free space and write permission" in done.stdout
    assert_old(folder)


def test_an_interrupt_ends_a_process_that_makes_overviews_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pipe that nobody writes to stands for a scene that takes minutes."""
    monkeypatch.setattr(cog, "PIXELS_HERE", 0)
    pipe = tmp_path / "pipe.tif"
    os.mkfifo(pipe)
    signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGINT))
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        cog.cog_from_tiff(pipe, tmp_path / "a.tif", "mode", 1)
    assert time.monotonic() - started < 5


def test_a_process_that_makes_overviews_says_why_it_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cog, "PIXELS_HERE", 0)
    with pytest.raises(OSError, match=r"absent\.tif: No such file"):
        cog.cog_from_tiff(tmp_path / "absent.tif", tmp_path / "a.tif", "mode", 1)


def test_polygons_need_a_place(tmp_path: Path) -> None:
    points = [rasterio.control.GroundControlPoint(row, row, row, row) for row in range(3)]
    with pytest.raises(SceneError, match="ground control points"):
        outputs(tmp_path, gcps=points, crs="EPSG:32632")
    with pytest.raises(SceneError, match="leave out --min-area"):
        outputs(tmp_path, crs=None, vectors=VectorOptions("fgb", min_area=3))


@pytest.mark.parametrize(("length", "fits"), [(243, True), (244, False)])
def test_names_too_long_are_refused_before_any_work(
    tmp_path: Path, length: int, fits: bool
) -> None:
    paths = OutputPaths.of(tmp_path, "n" * length, SegmentOptions(), None)
    if fits:
        paths.require_short_names()
        paths.names.touch()
    else:
        with pytest.raises(SceneError, match="rename the scene"):
            paths.require_short_names()
