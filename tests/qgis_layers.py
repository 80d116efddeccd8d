"""Load layers into QGIS as a user does, draw them and print their legends; runs in QGIS's Python.

python3 qgis_layers.py WIDTH HEIGHT FILE... : draws FILE.png, WIDTH x HEIGHT pixels, at the extent
of the first file and without smoothing; prints a JSON object with the renderer of each file and its
legend as pairs of label and colour.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from qgis.core import (
    QgsApplication,
    QgsMapRendererCustomPainterJob,
    QgsMapSettings,
    QgsRasterLayer,
    QgsVectorLayer,
)
from qgis.PyQt.QtCore import QSize
from qgis.PyQt.QtGui import QColor, QImage, QPainter


def loaded(path: str) -> Any:
    """Open a file with the style that QGIS finds for it."""
    raster = path.endswith(".tif")
    layer = QgsRasterLayer(path, "map") if raster else QgsVectorLayer(path, "map", "ogr")
    assert layer.isValid(), path
    return layer


def legend(layer: Any) -> dict[str, Any]:
    renderer = layer.renderer()
    if isinstance(layer, QgsRasterLayer):
        entries = [[label, colour.name()] for label, colour in layer.legendSymbologyItems()]
    elif renderer.type() == "categorizedSymbol":
        entries = [[one.label(), one.symbol().color().name()] for one in renderer.categories()]
    else:
        entries = []
    return {"renderer": renderer.type(), "legend": entries}


def draw(layer: Any, frame: Any, size: QSize, picture: str) -> None:
    settings = QgsMapSettings()
    settings.setLayers([layer])
    settings.setDestinationCrs(frame.crs())
    settings.setExtent(frame.extent())
    settings.setBackgroundColor(QColor(0, 0, 0, 0))
    settings.setOutputSize(size)
    settings.setFlag(QgsMapSettings.Antialiasing, False)
    image = QImage(size, QImage.Format_ARGB32_Premultiplied)
    image.fill(QColor(0, 0, 0, 0))
    painter = QPainter(image)
    QgsMapRendererCustomPainterJob(settings, painter).renderSynchronously()
    painter.end()
    assert image.save(picture), picture


def main(width: str, height: str, *files: str) -> None:
    QgsApplication.setPrefixPath("/usr", True)
    app = QgsApplication([], True)  # with pictures: symbols are drawn
    app.initQgis()
    layers, found = [loaded(file) for file in files], {}
    for file, layer in zip(files, layers, strict=True):
        found[Path(file).name] = legend(layer)
        draw(layer, layers[0], QSize(int(width), int(height)), f"{file}.png")
    print(json.dumps(found), flush=True)
    os._exit(0)  # PyQGIS may crash when Python takes its objects apart


if __name__ == "__main__":
    main(*sys.argv[1:])
