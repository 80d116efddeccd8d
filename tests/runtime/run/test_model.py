"""A loaded model on arrays and files, as from a notebook."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from support import read, rgbd_classes, write_rgbd_model, write_scene

import mfnet_runtime as mf


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[mf.Model]:
    path = write_rgbd_model(tmp_path_factory.mktemp("model") / "best.onnx")
    with mf.load(str(path), threads=1) as model:
        yield model


Arrays = tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]


@pytest.fixture
def arrays() -> Arrays:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (3, 45, 70), dtype=np.uint8)
    return image, rng.uniform(100, 130, (45, 70)).astype(np.float32)


def expected(image: npt.NDArray[Any], dsm: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    found: npt.NDArray[np.uint8] = rgbd_classes(image, (dsm - dsm.min()) / (dsm.max() - dsm.min()))
    return found


def test_what_it_says_of_itself(model: mf.Model) -> None:
    assert len(model.classes) == 4
    assert model.contract.window == 32
    assert model.device.startswith("CPU")
    assert mf.__version__[0].isdigit()
    for name in mf.__all__:
        assert getattr(mf, name).__doc__


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32])
def test_arrays(model: mf.Model, arrays: Arrays, kind: Any) -> None:
    image, dsm = arrays
    classes = model.predict(image.astype(kind), dsm)
    assert classes.dtype == np.uint8
    np.testing.assert_array_equal(classes, expected(image, dsm))
    np.testing.assert_array_equal(model.predict(image, dsm[None]), classes)


def test_smaller_than_a_window(model: mf.Model, arrays: Arrays) -> None:
    image, dsm = arrays[0][:, :7, :9], arrays[1][:7, :9]
    np.testing.assert_array_equal(model.predict(image, dsm), expected(image, dsm))


def test_nodata(model: mf.Model, arrays: Arrays) -> None:
    image, dsm = arrays[0].astype(np.float32), arrays[1].copy()
    valid = np.ones(dsm.shape, bool)
    valid[:5], dsm[10, 20], image[1, 30, 40] = False, np.nan, np.nan
    classes = model.predict(image, dsm, valid=valid)
    nodata = classes == 255
    assert nodata[:5].all()
    assert (nodata[10, 20], nodata[30, 40], nodata[20, 20]) == (True, True, False)
    assert nodata.sum() == 5 * dsm.shape[1] + 2


def test_probabilities(model: mf.Model, arrays: Arrays) -> None:
    classes, percents = model.predict(*arrays, probabilities=True)
    assert percents.shape == (4, *classes.shape)
    np.testing.assert_array_equal(
        percents.max(axis=0), np.take_along_axis(percents, classes[None], 0)[0]
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda image, dsm: (image.transpose(1, 2, 0), dsm), r"image \(45, 70, 3\) and DSM"),
        (lambda image, dsm: (image, dsm[:-1]), r"expected \(3, row, column\) and \(row, column\)"),
        (lambda image, dsm: (image.astype(np.uint16) * 9, dsm), "pixel values reach 2295; the mod"),
    ],
)
def test_arrays_that_do_not_fit(model: mf.Model, arrays: Arrays, change: Any, message: str) -> None:
    with pytest.raises(mf.UsageError, match=message):
        model.predict(*change(*arrays))


def test_threads_take_turns(model: mf.Model, arrays: Arrays) -> None:
    image, dsm = arrays
    found: list[npt.NDArray[np.uint8]] = []
    threads = [
        threading.Thread(target=lambda: found.append(model.predict(image, dsm))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    for classes in found:
        np.testing.assert_array_equal(classes, expected(image, dsm))


def test_xarray(model: mf.Model, arrays: Arrays) -> None:
    xarray = pytest.importorskip("xarray")
    image, dsm = arrays
    y, x = np.arange(45) * -0.5, np.arange(70) * 0.5
    place = {"y": y, "x": x, "spatial_ref": 0}
    scaled = {"_FillValue": 0, "scale_factor": 2.0, "grid_mapping": "spatial_ref"}
    given = xarray.DataArray(image, {"band": [1, 2, 3], **place}, ("band", "y", "x"), attrs=scaled)
    given.encoding = scaled
    classes = model.predict(given, xarray.DataArray(dsm, place, ("y", "x")))
    assert classes.dims == ("y", "x")
    assert set(classes.coords) == {"y", "x", "spatial_ref"}
    assert (classes.attrs, classes.encoding) == (
        {"grid_mapping": "spatial_ref", "_FillValue": 255},
        {},
    )
    assert given.attrs == scaled
    np.testing.assert_array_equal(classes.values, expected(image, dsm))


def test_files(model: mf.Model, tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "scenes", label=True)
    out = tmp_path / "maps" / "map.tif"
    row = model.segment(str(scene.image), dsm=scene.dsm, out=out)
    assert (row["status"], row["output"]) == ("done", str(out))
    assert scene.label is not None
    np.testing.assert_array_equal(read(out), read(scene.label))
    again = model.segment(scene.image, dsm=scene.dsm, out=out.with_name("other.tif"))
    assert again["class_pixels"] == row["class_pixels"]


def test_faults_of_files(model: mf.Model, tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "scenes")
    with pytest.raises(mf.UsageError, match=r"map\.png: expected a name ending in \.tif"):
        model.segment(scene.image, dsm=scene.dsm, out=tmp_path / "map.png")
    with pytest.raises(mf.UsageError, match=r"give its DSM, or the band that holds the heights"):
        model.segment(scene.image, out=tmp_path / "map.tif")
    scene.dsm.write_bytes(b"no raster")
    with pytest.raises(mf.SceneError, match=r"a\.tif"):
        model.segment(scene.image, dsm=scene.dsm, out=tmp_path / "map.tif")
    with pytest.raises(mf.UsageError, match=r"none\.onnx: no such model file"):
        mf.load(tmp_path / "none.onnx")
