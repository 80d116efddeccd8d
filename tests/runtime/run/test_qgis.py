"""Maps in a real QGIS: the legend is the classes, and the picture is the class map."""

from __future__ import annotations

from pathlib import Path
from typing import get_args
from xml.etree import ElementTree

import numpy as np
import pytest
from in_qgis import layers_in_qgis
from support import RGBD, read, write_rgbd_model, write_scene

from mfnet_runtime.cli.main import main
from mfnet_runtime.labels import ClassTable
from mfnet_runtime.raster.styles import class_style, percent_style
from mfnet_runtime.run.options import VectorFormat

LEGEND = [
    [name, "#" + bytes(rgb).hex()] for name, rgb in zip(RGBD.names, RGBD.colours, strict=True)
]


@pytest.mark.slow
@pytest.mark.parametrize("format", get_args(VectorFormat))
def test_qgis_shows_the_classes_without_a_click(tmp_path: Path, format: str) -> None:
    pytest.importorskip("pyogrio")
    height, width = 90, 70
    write_scene(tmp_path / "scenes", height=height, width=width, seed=3)
    model, out = write_rgbd_model(tmp_path / "rgbd.onnx"), tmp_path / "out"
    words = [model, tmp_path / "scenes", "-o", out, "--confidence", "--vectors", format]
    # nodata on the left
    words += ["--sieve", 0, "--bbox", 500_005, 5_399_955, 500_035, 5_400_000]
    assert main([str(word) for word in words]) == 0
    if format == "gpkg":  # without NAME.qml beside it: the style is inside
        (tmp_path / "alone").mkdir()
        (out / "a.gpkg").rename(tmp_path / "alone" / "a.gpkg")
    (polygon_file,) = tmp_path.glob(f"*/a.{format}")
    files = [out / "a.tif", out / "a.confidence.tif", polygon_file]
    # 5 x 5 pixels of the picture for each of the map; outlines leave the middle one
    shown = layers_in_qgis(5 * width, 5 * height, *files)
    classes, polygons = shown["a.tif"], shown[f"a.{format}"]
    assert classes == {"renderer": "paletted", "legend": LEGEND}
    assert polygons == {"renderer": "categorizedSymbol", "legend": LEGEND}
    confidence = shown["a.confidence.tif"]
    assert confidence["renderer"] == "singlebandpseudocolor"
    assert [label for label, _ in confidence["legend"]] == ["0 %", "25 %", "50 %", "75 %", "100 %"]

    truth = read(out / "a.tif")
    colours = np.array([*((*rgb, 255) for rgb in RGBD.colours), *[(0, 0, 0, 0)] * 252], np.uint8)
    for file in (files[0], files[2]):
        drawn = read(file.with_name(f"{file.name}.png"), None)[:, 2::5, 2::5]
        np.testing.assert_array_equal(drawn, np.moveaxis(colours[truth], 2, 0))


def test_styles_escape_the_names_of_classes() -> None:
    classes = ClassTable(('<a> & "b"', "Straße"), ((0, 128, 255), (1, 2, 3)))
    style = ElementTree.fromstring(class_style(classes))
    palette = [(one.get("label"), one.get("color")) for one in style.iter("paletteEntry")]
    assert palette == [('<a> & "b"', "#0080ff"), ("Straße", "#010203")]
    assert [one.get("value") for one in style.iter("category")] == list(classes.names)
    assert {one.get("symbol") for one in style.iter("category")} == {
        one.get("name") for one in style.iter("symbol")
    }
    ElementTree.fromstring(percent_style())
