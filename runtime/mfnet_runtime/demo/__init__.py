"""A small trained model and a piece of a real scene, to try mfnet-run without anything else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio

from mfnet_runtime.raster.open import no_place_is_fine, open_raster
from mfnet_runtime.scene.discovery import Scene

NAME = "demo"  # in place of MODEL and SCENES on the command line
DATA = Path(__file__).parent / "data"
MODEL = DATA / "autzen.onnx"
SCENE = Scene(NAME, DATA / "image.tif", DATA / "dsm.tif")
GAP = 8  # white pixels between panels

Pixels = npt.NDArray[np.uint8]  # (3, row, column)


def write_picture(class_map: Path, out: Path) -> None:
    """Write image, heights and classes of the scene side by side as a PNG.

    Args:
        class_map: The scene's class map, with its colours.
        out: The file to write.
    """
    with open_raster(SCENE.image) as image, open_raster(SCENE.dsm) as dsm:
        photo, heights = image.read(), dsm.read(1, masked=True)
    with open_raster(class_map) as raster:
        table = np.full((256, 3), 255, np.uint8)  # white without data, as the heights
        for index, (*rgb, alpha) in raster.colormap(1).items():
            if alpha:
                table[index] = rgb
        classes = table[raster.read(1)].transpose(2, 0, 1)
    white = np.full((3, photo.shape[1], GAP), 255, np.uint8)
    panels = np.concatenate([photo, white, shade(heights), white, classes], axis=2)
    size = {"count": 3, "height": panels.shape[1], "width": panels.shape[2]}
    with no_place_is_fine(), rasterio.open(out, "w", "PNG", dtype="uint8", **size) as png:
        png.write(panels)


def shade(heights: Any) -> Pixels:
    """Return a relief of masked heights, lit from the north-west, brighter where it is higher."""
    filled = heights.filled(float(heights.min()))
    low, high = np.percentile(heights.compressed(), (1, 99))
    down, across = np.gradient(filled)
    light = np.clip(1 - 0.15 * (down + across), 0.4, 1.3)
    level = np.sqrt(np.clip((filled - low) / (high - low), 0, 1))
    grey = np.clip(200 * light * (0.5 + 0.5 * level), 0, 255).astype(np.uint8)
    return np.repeat(np.where(heights.mask, 255, grey)[None], 3, axis=0).astype(np.uint8)
