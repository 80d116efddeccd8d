"""An open band of heights: metres where there are any, and where that is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from rasterio.enums import MaskFlags
from rasterio.windows import Window

from mfnet_runtime.errors import SceneError
from mfnet_runtime.raster.grid import require_plain_numbers, require_single_band
from mfnet_runtime.raster.open import reading
from mfnet_runtime.scene.normalize import BoolArray, FloatArray

HEIGHT_LIMITS = (-1000.0, 1e6)  # outside lies no height on Earth but an undeclared nodata value


class HeightBand:
    """Heights on their own grid.

    Args:
        path: Of the dataset, for messages.
        dataset: Open.
        band: Counted from 1; None where the file is to have one only.
        nodata: A value that is no height, in addition to the one the file declares.

    Raises:
        SceneError: no such band, or it does not hold plain numbers.
    """

    def __init__(
        self, path: Path, dataset: Any, band: int | None = None, nodata: float | None = None
    ) -> None:
        if band is None:
            require_single_band(path, dataset, "DSM")
        elif not 1 <= band <= dataset.count:
            raise SceneError(
                f"{path}: heights asked for in band {band}, the file has {dataset.count}; "
                "choose one, counted from 1, with --dsm-band"
            )
        else:
            require_plain_numbers(path, dataset, band)
        self.path = path
        self.dataset = dataset
        self.band = band or 1
        self.nodata = nodata
        self._by_value = dataset.mask_flag_enums[self.band - 1] == [MaskFlags.nodata]

    @property
    def unit(self) -> str | None:
        """Of the heights, as the file states it."""
        return self.dataset.units[self.band - 1] or None

    def read(self, window: Window) -> tuple[FloatArray, BoolArray]:
        """Heights (row, column) of a window inside the raster, and which of them are some.

        Raises:
            SceneError: damaged data.
        """
        with reading(self.path):
            stored = self.dataset.read(self.band, window=window)
            valid = self._stated(stored, window)
        if self.nodata is not None:
            valid &= stored != self.nodata
        scale, offset = self.dataset.scales[self.band - 1], self.dataset.offsets[self.band - 1]
        low, high = HEIGHT_LIMITS
        with np.errstate(invalid="ignore", over="ignore"):  # whatever stands for no height
            heights = stored.astype(np.float32, copy=False)
            if (scale, offset) != (1.0, 0.0):  # heights packed into integers
                heights = heights * np.float32(scale) + np.float32(offset)
            valid &= heights > low  # not so for NaN
            valid &= heights < high
            return heights, valid

    def _stated(self, stored: Any, window: Window) -> BoolArray:
        """Where the file states heights.

        For its mask GDAL reads the values once more, and compares each with nodata within some
        rounding: not asked for where all lie far from it.
        """
        if self._by_value:
            nodata = self.dataset.nodatavals[self.band - 1]
            if np.isnan(nodata):  # refused with all that is out of limits
                return np.ones(stored.shape, np.bool_)
            smallest, largest = float(stored.min()), float(stored.max())
            near = 1.0 + 1e-5 * abs(nodata)
            if smallest > nodata + near or largest < nodata - near:  # neither is true of NaN
                return np.ones(stored.shape, np.bool_)
        return np.asarray(self.dataset.read_masks(self.band, window=window) > 0)
