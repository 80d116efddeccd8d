"""Blocks and cloud-optimised GeoTIFFs: read back, and refused where anything differs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from support import RGBD, UTM, read, run_python

from mfnet_runtime.raster import geotiff
from mfnet_runtime.raster.geotiff import Block, BlockWriter, Layer, Metadata, Rows, write_cog

SHAPE = (1300, 700)
ROWS = np.random.default_rng(0).integers(0, 4, (1, *SHAPE), dtype=np.uint8)
ROWS[:, 100:200] = 255
CLASSES = Layer(("class",), "mode", RGBD.colormap())
TAGS = {"MFNET_STRIDE": "32", "MFNET_CONTRACT": '{"a": "<&>"}'}
Patch = pytest.MonkeyPatch


def block(folder: Path, rows: Rows, left: int = 0, top: int = 0) -> Block:
    """Write a block, strip by strip."""
    path = folder / f"{left}-{top}.tif"
    _, height, width = rows.shape
    with BlockWriter(path, len(rows), (height, width)) as writer:
        for start in range(0, height, 130):
            writer.write(rows[:, start : start + 130])
    columns, lines = range(left, left + width), range(top, top + height)
    return Block(path, columns, lines, writer.checksums)


def cog(folder: Path, rows: Rows = ROWS, layer: Layer = CLASSES, **changes: Any) -> Path:
    """Write a file from four blocks, or fewer if it is small."""
    _, height, width = rows.shape
    blocks = [
        block(folder, rows[:, top : top + 640, left : left + 300], left, top)
        for top in range(0, height, 640)
        for left in range(0, width, 300)
    ]
    path = folder / "cog.tif"
    metadata = Metadata((height, width), changes.pop("place", UTM), TAGS)
    write_cog(path, layer, metadata, blocks, **changes)
    return path


def assert_cloud_optimised(path: Path) -> None:
    """Apply the rules of GDAL's validate_cloud_optimized_geotiff, in the order of the bytes."""
    with rasterio.open(path) as found:
        count = len(found.overviews(1))
        assert found.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert found.block_shapes[0] == (512, 512)
        levels = [{"bidx": 1}, *({"bidx": 1, "ovr": level} for level in range(count))]
        headers = [int(found.get_tag_item("IFD_OFFSET", "TIFF", **level)) for level in levels]
        data = [int(found.get_tag_item("BLOCK_OFFSET_0_0", "TIFF", **level)) for level in levels]
        height, width = found.shape
    assert headers == sorted(headers)
    assert headers[0] < 500, "headers are in front of everything"
    assert headers[-1] < data[-1]
    assert data == sorted(data, reverse=True), "small overviews come first"
    assert max(height, width) >> count <= 512


def test_pixels_and_metadata(tmp_path: Path) -> None:
    seen = np.zeros(SHAPE, np.uint32)

    def see(top: int, rows: Rows) -> None:
        assert rows.shape[0] == 1
        seen[top : top + rows.shape[1]] += np.uint32(rows.shape[2])

    path = cog(tmp_path, seen=see)
    np.testing.assert_array_equal(read(path, None), ROWS)
    assert (seen == 700).all(), "every row once"
    with rasterio.open(path) as found:
        assert (found.crs, found.transform) == (UTM["crs"], UTM["transform"])
        assert found.nodata == 255
        assert found.colormap(1)[0] == (220, 40, 40, 255)
        assert found.colormap(1)[255][3] == 0
        assert found.descriptions == ("class",)
        assert found.tags().items() >= TAGS.items()
    assert_cloud_optimised(path)


@pytest.mark.parametrize("shape", [(1, 1), (3, 2000), (512, 512), (513, 2)])
def test_scenes_of_any_shape_are_cloud_optimised(tmp_path: Path, shape: tuple[int, int]) -> None:
    rows = np.random.default_rng(1).integers(0, 4, (1, *shape), dtype=np.uint8)
    path = cog(tmp_path, rows)
    np.testing.assert_array_equal(read(path, None), rows)
    assert_cloud_optimised(path)


def test_some_bands_of_blocks(tmp_path: Path) -> None:
    rows = np.random.default_rng(2).integers(0, 101, (5, *SHAPE), dtype=np.uint8)
    path = cog(tmp_path, rows, Layer(RGBD.names, "average"), first=2)
    np.testing.assert_array_equal(read(path, None), rows[1:])
    with rasterio.open(path) as found:
        assert found.descriptions == RGBD.names
        assert set(found.nodatavals) == {255}
    assert_cloud_optimised(path)


def test_ground_control_points(tmp_path: Path) -> None:
    points = [
        rasterio.control.GroundControlPoint(row, column, 5e5 + column, 54e5 - row)
        for row, column in ((0, 0), (0, 700), (1300, 0.25))
    ]
    with rasterio.open(cog(tmp_path, place={"crs": UTM["crs"], "gcps": points})) as found:
        there, crs = found.gcps
    assert crs == UTM["crs"]
    assert [(p.row, p.col, p.x, p.y) for p in there] == [(p.row, p.col, p.x, p.y) for p in points]


def test_an_overview_has_the_most_frequent_class_and_no_nodata_beside_one(tmp_path: Path) -> None:
    square = np.array([[2, 1, 255, 255], [1, 1, 3, 255]], np.uint8)
    path = cog(tmp_path, np.tile(square, (512, 256))[None])
    with rasterio.open(path, overview_level=0) as found:
        np.testing.assert_array_equal(found.read(1), np.tile([1, 3], (512, 256)))


def test_the_way_of_a_copy_changes_no_byte(tmp_path: Path, monkeypatch: Patch) -> None:
    """With compressed temporary overviews, and in a process of its own as large files are."""
    plain = cog(tmp_path).read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(geotiff, "UNPACKED", {})
        assert cog(tmp_path).read_bytes() == plain
    monkeypatch.setattr(geotiff, "PIXELS_HERE", 0)
    monkeypatch.setattr(geotiff, "copy_here", None)
    assert cog(tmp_path).read_bytes() == plain


def test_an_interrupt_ends_the_process_of_a_copy_at_once(tmp_path: Path) -> None:
    """A pipe that nobody writes to stands for a scene that takes minutes.

    In a process of its own, which the signals cannot outlive.
    """
    os.mkfifo(tmp_path / "pipe.tif")
    code = """
import signal, time
from pathlib import Path
from mfnet_runtime.raster import geotiff
geotiff.PIXELS_HERE = 0
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGINT))
signal.setitimer(signal.ITIMER_REAL, 0.5)
started = time.monotonic()
try:
    geotiff.copy_to_cog(Path("pipe.tif"), Path("a.tif"), "mode", 1)
except KeyboardInterrupt:
    print(time.monotonic() - started < 5)
"""
    done = run_python(code, cwd=tmp_path)
    assert done.stdout == "True\n", done.stderr


def test_a_copy_that_fails_in_its_process(tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.setattr(geotiff, "PIXELS_HERE", 0)
    with pytest.raises(OSError, match=r"absent\.tif: No such file"):
        geotiff.copy_to_cog(tmp_path / "absent.tif", tmp_path / "a.tif", "mode", 1)


def changed(**profile: Any) -> Any:
    """Return a replacement for `copy_to_cog` whose copy differs in one thing."""

    def copy(source: Path, target: Path, *_: object) -> None:
        with rasterio.open(source) as found:
            rows = found.read()
            asked = {**found.profile, "driver": "GTiff", "tiled": False, **profile}
            rows[0, 700, 300] += profile.pop("add", 0)
            for tiles in ("blockxsize", "blockysize"):
                asked.pop(tiles)
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
        ({"add": 1}, "what was read back differs from block 300-640"),
        ({"height": 1299}, "its size"),
        ({"nodata": 254}, "its nodata"),
        ({"colours": None}, "its palette"),
        ({"tags": None}, "its tags"),
        ({"crs": None}, "its CRS"),
        ({"transform": UTM["transform"] * UTM["transform"].scale(2)}, "its transform"),
    ],
)
def test_a_file_that_reads_back_differently_is_refused(
    tmp_path: Path, monkeypatch: Patch, change: dict[str, Any], what: str
) -> None:
    monkeypatch.setattr(geotiff, "copy_to_cog", changed())
    cog(tmp_path)  # the copy itself is accepted
    monkeypatch.setattr(geotiff, "copy_to_cog", changed(**change))
    with pytest.raises(OSError, match=what):
        cog(tmp_path)


def test_a_damaged_or_missing_block_is_noticed(tmp_path: Path) -> None:
    whole = block(tmp_path, ROWS)
    assert whole.is_intact()
    metadata = Metadata(SHAPE, UTM, TAGS)
    data = bytearray(whole.path.read_bytes())
    data[len(data) // 2] ^= 1
    whole.path.write_bytes(data)
    assert not whole.is_intact()
    with pytest.raises(OSError, match=r"differs from block 0-0\.tif"):
        write_cog(tmp_path / "a.tif", CLASSES, metadata, [whole])
    whole.path.unlink()
    assert not whole.is_intact()
    with pytest.raises(OSError, match=r"0-0\.tif"):
        write_cog(tmp_path / "a.tif", CLASSES, metadata, [whole])


def test_a_block_appears_only_when_it_is_whole(tmp_path: Path, monkeypatch: Patch) -> None:
    def write(rows: Rows, fault: BaseException | None = None) -> None:
        with BlockWriter(tmp_path / "a.tif", 1, SHAPE) as writer:
            writer.write(rows)
            assert not (tmp_path / "a.tif").exists()
            if fault:
                raise fault

    with pytest.raises(KeyboardInterrupt):
        write(ROWS, KeyboardInterrupt())
    with pytest.raises(OSError, match="what was read back differs"):
        write(ROWS[:, :1299])
    monkeypatch.setattr(os, "replace", lambda old, new: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        write(ROWS)
    assert list(tmp_path.iterdir()) == []
