"""Read the three bands of an open image that the model takes, with the pixels that hold data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import reduce
from typing import Any

import numpy as np
import numpy.typing as npt
from rasterio.enums import MaskFlags
from rasterio.windows import Window

from mfnet_runtime.errors import SceneError
from mfnet_runtime.network.url import RasterPath
from mfnet_runtime.raster.grid import grid_of, require_plain_numbers
from mfnet_runtime.raster.open import pieces_of, reading
from mfnet_runtime.raster.pixel_area import ground_size
from mfnet_runtime.scene.normalize import BoolArray, valid_range
from mfnet_runtime.scene.options import ReadOptions

Pixels = npt.NDArray[Any]


def pixel_size(dataset: Any, options: ReadOptions) -> float | None:
    """Return the mean width and height on the ground of pixels as read, metres; None if unknown."""
    if isinstance(options.resample_to, float):
        return options.resample_to
    if options.pixel_size is not None or not options.use_place:
        return options.pixel_size
    size = ground_size(grid_of(dataset))
    return None if size is None else (size[0] + size[1]) / 2


class ImageBands:
    """Bands of an image.

    Args:
        path: Path of the dataset, for messages.
        dataset: Open rasterio dataset.
        full_scale: Largest pixel value that the model expects.
        options: How to read.
        heights: Band of this file that holds heights, from 1.

    Raises:
        SceneError: The bands do not fit the model, or the image has no valid pixel to find
            percentiles of.
    """

    def __init__(
        self,
        path: RasterPath,
        dataset: Any,
        full_scale: float,
        options: ReadOptions,
        heights: int | None = None,
    ) -> None:
        self.path = path
        self.dataset = dataset
        self.full_scale = full_scale
        self.names = [kind.name for kind in dataset.colorinterp]  # of all bands of the file
        self.bands = self._choose_bands(options.bands, heights)
        # GDAL flags a fourth band as alpha whatever it holds
        alpha = self.names.index("alpha") + 1 if "alpha" in self.names else None
        used = alpha is not None and not options.ignore_alpha and alpha != heights
        self.alpha = alpha if used else None  # band that masks pixels, from 1
        whole = dataset.mask_flag_enums == ([MaskFlags.all_valid],) * dataset.count
        self._masked = not whole and (alpha is None or used)
        declared = [dataset.nodatavals[band - 1] for band in self.bands]
        asked = [options.nodata_image] * len(self.bands)
        # values without data, one of each band; one list for each source
        self.nodata = [values for values in (declared, asked) if values != [None] * len(values)]
        self.tolerance = options.nodata_tolerance
        if self.tolerance and not self.nodata:
            raise SceneError(
                f"{path}: declares no nodata value, to which --nodata-tolerance would refer; give "
                "one with --nodata-image"
            )
        self.span = options.image_range  # pixel values that become 0 and the full scale
        if options.image_percentiles is not None:
            low, high, count = valid_range(self._each_band, options.image_percentiles)
            if not count:
                raise SceneError(f"{path}: no valid pixel to find percentiles of")
            self.span = (low, high)

    def read(self, window: Window) -> tuple[Pixels, BoolArray]:
        """Read pixels (3, row, column) of a window on the model's scale, and their validity.

        Raises:
            SceneError: The data is damaged, or pixel values exceed the model's full scale.
        """
        image, valid = self.stored(window)
        if self.span is not None:
            return self._stretched(image, *self.span), valid
        kind = np.iinfo(image.dtype) if image.dtype.kind in "iu" else None
        if kind is None or kind.min < 0 or kind.max > self.full_scale:
            seen: Any = {} if valid.all() else {"where": valid}
            self.require_in_scale(image.min(**seen, initial=0), image.max(**seen, initial=0))
        return image, valid

    def require_in_scale(self, smallest: float, largest: float) -> None:
        """Refuse valid pixel values outside of the model's range.

        Raises:
            SceneError: Names the value that is too large, or else too small.
        """
        slack = 0.001 * self.full_scale  # float rasters may overshoot by rounding
        if smallest < -slack or largest > self.full_scale + slack:
            worst = largest if largest > self.full_scale + slack else smallest
            raise SceneError(
                f"{self.path}: pixel values reach {worst:g}, the model expects 0 to "
                f"{self.full_scale:g}; rescale it or give their range (--image-range), "
                "declare its nodata value, or use a model trained on such values"
            )

    def stored(self, window: Window) -> tuple[Pixels, BoolArray]:
        """Read pixels (3, row, column) as stored, and their validity (row, column).

        Raises:
            SceneError: The data is damaged.
        """
        with reading(self.path):
            image = self.dataset.read(self.bands, window=window)
            valid = np.ones(image.shape[1:], np.bool_)
            for nodata in self.nodata:
                valid &= ~self.without_data(image, nodata, self.tolerance)
            if image.dtype.kind == "f":
                valid &= np.isfinite(image).all(axis=0)
            if self._masked:
                valid &= self.dataset.dataset_mask(window=window) > 0
        return image, valid

    def _choose_bands(self, bands: Sequence[int] | None, heights: int | None) -> list[int]:
        """Return the three bands asked for, or all but alpha and heights, from 1."""
        if bands is None:
            chosen = [
                band
                for band, name in enumerate(self.names, start=1)
                if band != heights and name != "alpha"
            ]
            if len(chosen) != 3:
                aside = "alpha" if heights is None else "alpha and heights"
                raise SceneError(
                    f"{self.path}: has {len(chosen)} bands ({aside} aside), the model takes 3; "
                    "choose them with --bands, for example --bands 1,2,3"
                )
        else:
            chosen = list(bands)
            if len(chosen) != 3 or not all(1 <= band <= self.dataset.count for band in chosen):
                raise SceneError(
                    f"{self.path}: bands {','.join(map(str, chosen))} asked for, the file has "
                    f"{self.dataset.count}; choose three of them, counted from 1, with --bands"
                )
        for band in chosen:
            require_plain_numbers(self.path, self.dataset, band)
        return chosen

    def _stretched(self, image: Pixels, low: float, high: float) -> Pixels:
        if not low < high:
            return np.zeros(image.shape, np.float32)
        with np.errstate(invalid="ignore", over="ignore"):  # of pixels that are not valid
            scaled = (image.astype(np.float32) - np.float32(low)) * np.float32(
                self.full_scale / (high - low)
            )
        return np.asarray(np.clip(scaled, np.float32(0), np.float32(self.full_scale)))

    def _each_band(self) -> Iterator[tuple[Pixels, BoolArray]]:
        """Read the whole image, one band of a piece at a time."""
        for window in pieces_of(self.dataset):
            image, valid = self.stored(window)
            for band in image:
                yield band, valid

    def without_data(
        self, image: Pixels, nodata: Sequence[float | None], tolerance: float
    ) -> BoolArray:
        """Compare pixels with a nodata value per band, from which they may differ a little.

        All bands must have it if it is a possible colour (one black band is not nodata), any band
        if it is not.
        """
        possible = all(0 <= (value or 0) <= self.full_scale for value in nodata)
        of_bands = [
            np.zeros(band.shape, np.bool_) if value is None else _close(band, value, tolerance)
            for band, value in zip(image, nodata, strict=True)
        ]
        return np.asarray(reduce(np.logical_and if possible else np.logical_or, of_bands))


def _close(band: Pixels, value: float, tolerance: float) -> BoolArray:
    if not tolerance:
        return np.asarray(band == value)
    return np.asarray((band >= value - tolerance) & (band <= value + tolerance))
