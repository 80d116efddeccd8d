"""Read heights from a band of an open DSM, with the pixels that hold one."""

from __future__ import annotations

from typing import Any

import numpy as np
from rasterio.enums import MaskFlags
from rasterio.windows import Window

from mfnet_runtime.errors import SceneError
from mfnet_runtime.network.url import RasterPath
from mfnet_runtime.raster.grid import require_plain_numbers
from mfnet_runtime.raster.open import reading
from mfnet_runtime.scene.normalize import BoolArray, FloatArray

HEIGHT_LIMITS = (-1000.0, 1e6)  # values outside are no height on Earth but undeclared nodata


class HeightBand:
    """Heights on their own grid.

    Args:
        path: Path of the dataset, for messages.
        dataset: Open rasterio dataset.
        band: Band with the heights, from 1; None requires a file of one band.
        nodata: Stored value that is no height, in addition to the one that the file declares.

    Raises:
        SceneError: There is no such band, or it does not hold plain numbers.
    """

    def __init__(
        self, path: RasterPath, dataset: Any, band: int | None = None, nodata: float | None = None
    ) -> None:
        if band is None and dataset.count != 1:
            raise SceneError(
                f"{path}: DSM has {dataset.count} bands, expected 1; "
                "choose one with --dsm-band, or extract it with gdal_translate -b"
            )
        if band is not None and not 1 <= band <= dataset.count:
            raise SceneError(
                f"{path}: heights asked for in band {band}, the file has {dataset.count}; "
                "choose one, counted from 1, with --dsm-band"
            )
        require_plain_numbers(path, dataset, band or 1)
        self.path = path
        self.dataset = dataset
        self.band = band or 1
        self.nodata = nodata
        self._by_value = dataset.mask_flag_enums[self.band - 1] == [MaskFlags.nodata]

    @property
    def unit(self) -> str | None:
        """Unit of the heights, if the file states it."""
        return self.dataset.units[self.band - 1] or None

    def read(self, window: Window) -> tuple[FloatArray, BoolArray]:
        """Read heights of a window, and which pixels hold one, each (row, column).

        Raises:
            SceneError: The data is damaged.
        """
        with reading(self.path):
            stored = self.dataset.read(self.band, window=window)
            valid = self._declared_valid(stored, window)
        if self.nodata is not None:
            valid &= stored != self.nodata
        scale, offset = self.dataset.scales[self.band - 1], self.dataset.offsets[self.band - 1]
        low, high = HEIGHT_LIMITS
        with np.errstate(invalid="ignore", over="ignore"):  # of values that are no heights
            heights = stored.astype(np.float32, copy=False)
            if (scale, offset) != (1.0, 0.0):  # heights packed into integers
                heights = heights * np.float32(scale) + np.float32(offset)
            valid &= heights > low  # False for NaN
            valid &= heights < high
            return heights, valid

    def _declared_valid(self, stored: Any, window: Window) -> BoolArray:
        """Return the file's own mask.

        To compare values with nodata, within some rounding, GDAL would read them once more. It is
        not asked if all of them are far from nodata.
        """
        if self._by_value:
            nodata = self.dataset.nodatavals[self.band - 1]
            smallest, largest = float(stored.min()), float(stored.max())
            near = 1.0 + 1e-5 * abs(nodata)
            if smallest > nodata + near or largest < nodata - near or np.isnan(nodata):
                return np.ones(stored.shape, np.bool_)  # NaN is outside of the limits anyway
        return np.asarray(self.dataset.read_masks(self.band, window=window) > 0)
