"""A class map appears whole under its name, or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import rasterio
from support import RGBD, UTM, read

from mfnet_runtime.classmap import CLASSES_TAG, ClassMapWriter
from mfnet_runtime.errors import ResourceError
from mfnet_runtime.labels import ClassTable

ROWS = np.random.default_rng(0).integers(0, 4, (300, 70), dtype=np.uint8)


def writer(path: Path) -> ClassMapWriter:
    return ClassMapWriter(path, 300, 70, RGBD, UTM, {"MFNET_STRIDE": "32"})


def test_what_was_written_is_there_with_its_meaning(tmp_path: Path) -> None:
    path = tmp_path / "map.tif"
    with writer(path) as target:
        for part in np.array_split(ROWS, 7):
            target.write(part)
        target.tag(MFNET_DSM_LOW="1.5")
        assert not path.exists()
    np.testing.assert_array_equal(read(path), ROWS)
    with rasterio.open(path) as found:
        assert found.crs == UTM["crs"]
        assert found.transform == UTM["transform"]
        assert found.nodata == 255
        assert found.colormap(1)[0] == (220, 40, 40, 255)
        assert found.colormap(1)[255][3] == 0
        tags = found.tags()
    assert ClassTable.from_json(json.loads(tags[CLASSES_TAG])) == RGBD
    assert (tags["MFNET_STRIDE"], tags["MFNET_DSM_LOW"]) == ("32", "1.5")
    assert os.listdir(tmp_path) == ["map.tif"]


def test_blocks_of_columns_come_one_after_the_other(tmp_path: Path) -> None:
    path = tmp_path / "map.tif"
    with writer(path) as target:
        for first, stop in ((0, 32), (32, 69), (69, 70)):
            for part in np.array_split(ROWS[:, first:stop], 7):
                target.write(part, first)
    np.testing.assert_array_equal(read(path), ROWS)


@pytest.mark.parametrize("blocks", [((0, 32), (32, 69)), ((0, 32), (32, 70)), ((32, 70),), ()])
def test_columns_missing_or_lost_are_noticed(
    tmp_path: Path, blocks: tuple[tuple[int, int], ...]
) -> None:
    with pytest.raises(ResourceError), writer(tmp_path / "map.tif") as target:
        for first, stop in blocks:
            target.write(ROWS[:, first:stop], first)
        target._target.write(ROWS[:1, :1] ^ 1, 1, window=((299, 300), (69, 70)))
    assert os.listdir(tmp_path) == []


def test_an_exception_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "map.tif"
    path.write_bytes(b"old")
    target = writer(path).__enter__()
    target.write(ROWS[:10])
    target.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["map.tif"]


def test_bytes_lost_on_the_way_are_noticed(tmp_path: Path) -> None:
    """As when the disk is full at close, which rasterio does not report."""
    target = writer(tmp_path / "map.tif").__enter__()
    target.write(ROWS)
    target._target.write(ROWS[::-1], 1)
    with pytest.raises(ResourceError, match=r"map\.tif: cannot be finished"):
        target.__exit__(None, None, None)
    assert os.listdir(tmp_path) == []


def test_rows_missing_are_noticed(tmp_path: Path) -> None:
    with pytest.raises(ResourceError), writer(tmp_path / "map.tif") as target:
        target.write(ROWS[:299])
    assert os.listdir(tmp_path) == []


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="check free space and write permission"):
        writer(tmp_path / "absent" / "map.tif").__enter__()
