"""Small PNGs of a scene and its class map, for the web page."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio import Affine
from rasterio.enums import Resampling
from rasterio.io import MemoryFile
from rasterio.vrt import WarpedVRT

from mfnet_runtime.labels import IGNORE, ClassTable
from mfnet_runtime.raster.open import no_place_is_fine, reading
from mfnet_runtime.scene.reader import SceneReader

LARGEST = 1024  # pixels of the longer side
PERCENTILES = (2, 98)  # shown as black and white

Shape = tuple[int, int]  # rows and columns


def previews(reader: SceneReader, classmap: Path, classes: ClassTable) -> dict[str, str]:
    """Return `image`, `dsm` and `classes` as `data:` URLs of PNGs of equal size.

    Args:
        reader: The open scene.
        classmap: Of the scene.
        classes: Their colours.
    """
    shrink = max(reader.height, reader.width, LARGEST) / LARGEST
    shape = max(round(reader.height / shrink), 1), max(round(reader.width / shrink), 1)
    with no_place_is_fine():
        with rasterio.open(classmap) as dataset:
            found = dataset.read(1, out_shape=shape)  # of the overviews, made by majority
        colours = np.array([*classes.colours, *[(0, 0, 0)] * (IGNORE + 1 - len(classes))], np.uint8)
        images = {
            "image": _image(reader, shape),
            "dsm": _heights(reader, shape),
            "classes": np.concatenate([colours[found].transpose(2, 0, 1), _alpha(found != IGNORE)]),
        }
        return {name: _data_url(image) for name, image in images.items()}


def _image(reader: SceneReader, shape: Shape) -> npt.NDArray[np.uint8]:
    image = reader.image
    with reading(image.path):
        pixels = image.dataset.read(image.bands, out_shape=(3, *shape))
        valid = image.dataset.dataset_mask(out_shape=shape) > 0
    if pixels.dtype != np.uint8:
        pixels = _stretch(pixels, valid & np.isfinite(pixels).all(axis=0))
    return np.concatenate([pixels, _alpha(valid)])


def _heights(reader: SceneReader, shape: Shape) -> npt.NDArray[np.uint8]:
    """Return heights in grey, on the grid of the image."""
    dsm, grid = reader.dsm, reader.grid
    with reading(dsm.path):
        if reader.alignment is not None and reader.alignment.resampling and grid.crs:
            of, (across, down) = grid.transform, (grid.width / shape[1], grid.height / shape[0])
            larger = Affine(of.a * across, of.b * down, of.c, of.d * across, of.e * down, of.f)
            place = {"crs": grid.crs, "transform": larger}
            size = {"height": shape[0], "width": shape[1], "resampling": Resampling.bilinear}
            with WarpedVRT(dsm.dataset, **place, **size) as warped:
                heights = warped.read(dsm.band, masked=True)
        else:
            heights = dsm.dataset.read(dsm.band, out_shape=shape, masked=True)
    valid = ~np.ma.getmaskarray(heights) & np.isfinite(heights.data)
    return np.concatenate([_stretch(heights.data[None], valid), _alpha(valid)])


def _stretch(bands: npt.NDArray[Any], valid: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
    """Scale values (band, row, column) to 0 to 255 by their percentiles."""
    if not valid.any():
        return np.zeros(bands.shape, np.uint8)
    low, high = np.percentile(bands[:, valid], PERCENTILES)
    with np.errstate(invalid="ignore"):
        scaled = (bands.astype(np.float32) - low) * (255 / max(high - low, 1e-6))
    return np.asarray(np.nan_to_num(np.clip(scaled, 0, 255)), np.uint8)


def _alpha(valid: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
    return np.where(valid, 255, 0).astype(np.uint8)[None]


def _data_url(image: npt.NDArray[np.uint8]) -> str:
    size = {"count": image.shape[0], "height": image.shape[1], "width": image.shape[2]}
    with MemoryFile() as file:
        with file.open(driver="PNG", dtype="uint8", **size) as target:
            target.write(image)
        return "data:image/png;base64," + base64.b64encode(file.read()).decode()
