"""What the rasters of a scene look like: class map, confidence, probabilities. Writes nothing."""

from __future__ import annotations

from xml.sax.saxutils import escape

from mfnet_runtime.labels import ClassTable
from mfnet_runtime.raster.geotiff import Layer

CLASSES_TAG = "MFNET_CLASSES"  # the class table as JSON, names and colours
CONFIDENCE = Layer(("percent probability of the class",), "average")


def class_layer(classes: ClassTable) -> Layer:
    """A band of class indices, and their colours."""
    return Layer(("class",), "mode", classes.colormap())


def probability_layer(classes: ClassTable) -> Layer:
    """A band of percent for each class."""
    return Layer(classes.names, "average")


def category_names(classes: ClassTable) -> str:
    """Class names as GDAL looks for them: in a file beside the class map, `.aux.xml`."""
    rows = "".join(f"      <Category>{escape(name)}</Category>\n" for name in classes.names)
    return (
        '<PAMDataset>\n  <PAMRasterBand band="1">\n    <CategoryNames>\n'
        f"{rows}    </CategoryNames>\n  </PAMRasterBand>\n</PAMDataset>\n"
    )
