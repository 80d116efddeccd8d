"""A scene through a model whose answer is known exactly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support import UTM, rgbd_classes, write_raster, write_scene

from mfnet_runtime.backends import backend_from_file
from mfnet_runtime.scene.discovery import Scene
from mfnet_runtime.scene.reader import SceneReader
from mfnet_runtime.tiling.classes import FinishedRows
from mfnet_runtime.tiling.options import BLENDS, BlendName
from mfnet_runtime.tiling.pipeline import SegmentOptions, segment_scene


def segmented(model: Path, scene: Scene, options: SegmentOptions | None = None):  # type: ignore[no-untyped-def]
    """Class map and report."""
    rows: list[FinishedRows] = []
    with backend_from_file(model) as backend, SceneReader(scene) as reader:
        report = segment_scene(backend, reader, rows.append, options or SegmentOptions())
    return np.concatenate([part.classes for part in rows]), report


def expected(scene: Scene) -> np.ndarray:
    """The model's answer, computed without windows."""
    with SceneReader(scene) as reader:
        rows = reader.read(0, reader.height)
    low, high = rows.dsm.min(), rows.dsm.max()
    return rgbd_classes(rows.image, (rows.dsm - low) / (high - low))


@pytest.mark.parametrize("blend", BLENDS)
@pytest.mark.parametrize("stride", [32, 16, 7])
@pytest.mark.parametrize("size", [(40, 48), (32, 32), (5, 100), (100, 31), (1, 1)])
def test_class_map_is_the_models_answer(
    tmp_path: Path, model: Path, size: tuple[int, int], stride: int, blend: BlendName
) -> None:
    scene = write_scene(tmp_path, height=size[0], width=size[1])
    classes, _ = segmented(model, scene, SegmentOptions(stride, blend))
    if size == (1, 1):  # a constant DSM counts as 0 everywhere
        assert classes.shape == (1, 1)
        return
    np.testing.assert_array_equal(classes, expected(scene))


def test_holes_come_out_as_nodata_and_never_as_class_0(tmp_path: Path, model: Path) -> None:
    image = np.full((3, 64, 64), 9, np.uint8)
    image[0] = 200  # class 0 everywhere
    image[:, :10] = 0
    heights = np.linspace(50, 51, 64 * 64, dtype=np.float32).reshape(64, 64)
    heights[:, :20] = -9999
    heights[40, 40] = np.nan
    scene = Scene(
        "holes",
        write_raster(tmp_path / "image.tif", image, nodata=0, **UTM),
        write_raster(tmp_path / "dsm.tif", heights, nodata=-9999, **UTM),
    )
    classes, report = segmented(model, scene)
    hole = np.zeros((64, 64), bool)
    hole[:10], hole[:, :20], hole[40, 40] = True, True, True
    np.testing.assert_array_equal(classes == 255, hole)
    assert set(np.unique(classes[~hole])) <= {0, 3}
    assert (report.dsm.low, report.dsm.high) == (heights[0, 20], 51.0)
