"""A raster of an output: cloud-optimised, read back, and refused where a bit of it differs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from support import RGBD, UTM, read

from mfnet_runtime.raster import cog
from mfnet_runtime.raster import geotiff as layer_file
from mfnet_runtime.raster.geotiff import Layer, LayerFile
from mfnet_runtime.run.classmap import class_layer, probability_layer

SHAPE = (1300, 700)
ROWS = np.random.default_rng(0).integers(0, 4, SHAPE, dtype=np.uint8)
ROWS[100:200] = 255
CLASSES = class_layer(RGBD)


def started(folder: Path, layer: Layer = CLASSES, **changes: Any) -> LayerFile:
    given = {"shape": SHAPE, "place": UTM, "tags": {"MFNET_STRIDE": "32"}, **changes}
    return LayerFile(folder, "a", layer, **given)


def finished(folder: Path, rows: Any = ROWS, **changes: Any) -> Path:
    file = started(folder, **changes)
    file.write(rows)
    return file.finish()


def assert_cloud_optimised(path: Path) -> None:
    """The rules of GDAL's validate_cloud_optimized_geotiff, in the order of the bytes."""
    with rasterio.open(path) as found:
        count = len(found.overviews(1))
        assert found.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert found.block_shapes[0] == (512, 512)
        levels = [{"bidx": 1}, *({"bidx": 1, "ovr": level} for level in range(count))]
        headers = [int(found.get_tag_item("IFD_OFFSET", "TIFF", **level)) for level in levels]
        data = [int(found.get_tag_item("BLOCK_OFFSET_0_0", "TIFF", **level)) for level in levels]
        height, width = found.shape
    assert headers == sorted(headers)
    assert headers[0] < 500, "after the list of what is where, in front of everything"
    assert headers[-1] < data[-1]
    assert data == sorted(data, reverse=True), "small overviews come first"
    assert max(height, width) >> count <= 512


def test_what_was_written_is_there_with_its_meaning(tmp_path: Path) -> None:
    file = started(tmp_path)
    for part in np.array_split(ROWS, 7):
        file.write(part)
    file.tag({"MFNET_DSM_LOW": "1.5"})
    path = file.finish()
    np.testing.assert_array_equal(read(path), ROWS)
    with rasterio.open(path) as found:
        assert (found.crs, found.transform) == (UTM["crs"], UTM["transform"])
        assert found.nodata == 255
        assert found.colormap(1)[0] == (220, 40, 40, 255)
        assert found.colormap(1)[255][3] == 0
        assert found.descriptions == ("class",)
        tags = found.tags()
    assert (tags["MFNET_STRIDE"], tags["MFNET_DSM_LOW"]) == ("32", "1.5")
    assert_cloud_optimised(path)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("shape", [(1, 1), (3, 2000), (512, 512), (513, 2)])
def test_scenes_of_any_shape_are_cloud_optimised(tmp_path: Path, shape: tuple[int, int]) -> None:
    rows = np.random.default_rng(1).integers(0, 4, shape, dtype=np.uint8)
    path = finished(tmp_path, rows, shape=shape)
    np.testing.assert_array_equal(read(path), rows)
    assert_cloud_optimised(path)


def test_overviews_unpacked_on_their_way_change_no_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = finished(tmp_path).read_bytes()
    monkeypatch.setattr(cog, "UNPACKED", {})
    assert finished(tmp_path).read_bytes() == one


def test_an_overview_has_the_most_frequent_class_and_no_nodata_beside_one(tmp_path: Path) -> None:
    square = np.array([[2, 1, 255, 255], [1, 1, 3, 255]], np.uint8)
    path = finished(tmp_path, np.tile(square, (512, 256)), shape=(1024, 1024))
    with rasterio.open(path, overview_level=0) as found:
        np.testing.assert_array_equal(found.read(1), np.tile([1, 3], (512, 256)))


def test_bands_of_probabilities(tmp_path: Path) -> None:
    rows = np.random.default_rng(2).integers(0, 101, (4, *SHAPE), dtype=np.uint8)
    path = finished(tmp_path, rows, layer=probability_layer(RGBD))
    np.testing.assert_array_equal(read(path, None), rows)
    with rasterio.open(path) as found:
        assert found.descriptions == RGBD.names
        assert set(found.nodatavals) == {255}
    assert_cloud_optimised(path)


def test_columns_in_parts_give_the_same_file(tmp_path: Path) -> None:
    whole = finished(tmp_path).read_bytes()
    seen = np.zeros((1, *SHAPE), np.uint8)
    file = started(tmp_path)
    for start in range(0, 1300, 130):
        for columns in (slice(0, 300), slice(300, 700)):
            file.write(ROWS[start : start + 130, columns], columns.start)

    def see(start: int, rows: Any) -> None:
        column = 0 if rows.shape[2] == 300 else 300
        seen[:, start : start + rows.shape[1], column : column + rows.shape[2]] = rows

    assert file.finish(see).read_bytes() == whole
    np.testing.assert_array_equal(seen[0], ROWS)


def test_a_large_one_is_made_in_a_process_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = finished(tmp_path).read_bytes()
    monkeypatch.setattr(cog, "PIXELS_HERE", 0)
    monkeypatch.setattr(cog, "write_cog", None)
    assert finished(tmp_path).read_bytes() == here


def changed(**profile: Any) -> Any:
    """In the place of `cog_from_tiff`: a copy that differs in one thing."""

    def copy(source: Path, target: Path, *_: object) -> None:
        with rasterio.open(source) as found:
            rows, asked = found.read(), {**found.profile, **profile}
            rows[0, 700, 300] += profile.pop("add", 0)
            with rasterio.open(target, "w", **{**asked, "count": len(rows)}) as out:
                out.write(rows[:, : asked["height"]])
                if "colours" not in profile:
                    out.write_colormap(1, found.colormap(1))
                out.descriptions = found.descriptions
                if "tags" not in profile:
                    out.update_tags(**found.tags())

    return copy


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"add": 1}, "what was read back differs"),
        ({"height": 1299}, "its size"),
        ({"nodata": 254}, "its nodata"),
        ({"colours": None}, "its palette"),
        ({"tags": None}, "its tags"),
        ({"crs": None}, "its CRS"),
        ({"transform": UTM["transform"] * UTM["transform"].scale(2)}, "its transform"),
    ],
)
def test_whatever_reads_back_differently_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], what: str
) -> None:
    monkeypatch.setattr(layer_file, "cog_from_tiff", changed())
    finished(tmp_path)  # the copy itself is accepted
    monkeypatch.setattr(layer_file, "cog_from_tiff", changed(**change))
    with pytest.raises(OSError, match=what):
        finished(tmp_path)


@pytest.mark.parametrize("rows", [ROWS[:1299], ROWS[:, :699]])
def test_what_is_missing_is_noticed(tmp_path: Path, rows: Any) -> None:
    with pytest.raises(OSError, match=r"differs|missing"):
        finished(tmp_path, rows)
