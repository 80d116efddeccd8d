"""Options of reading scenes; imports nothing heavy, so that `--help` stays instant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from mfnet_runtime.errors import UsageError
from mfnet_runtime.raster.limits import GEOTIFF, MAX_PIXELS, PLAIN_DRIVERS, RasterLimits

if TYPE_CHECKING:
    from mfnet_runtime.contract import Contract
    from mfnet_runtime.scene.aoi import Area

RESAMPLINGS = ("bilinear", "nearest", "cubic", "average")
DEFAULT_RESAMPLING: Final = "bilinear"
MODEL: Final = "model"  # the pixel size that the model was trained on


@dataclass(frozen=True)
class ReadOptions:
    """Options for every scene of a run, named as on the command line.

    Raises:
        UsageError: Options exclude each other, or no area can be read from `aoi` or `bbox`.
    """

    bands: Sequence[int] | None = None  # three of the image, from 1; None: all but alpha
    band_names: tuple[str, str, str] | None = None  # their meaning, if files state a wrong one
    ignore_alpha: bool = False  # an alpha band holds data and masks nothing
    align: bool = False  # warp a DSM on another grid instead of refusing it
    resampling: str | None = None  # how to warp it; None: `DEFAULT_RESAMPLING`
    resample_to: float | Literal["model"] | None = None  # pixel size to read at, metres
    image_range: tuple[float, float] | None = None  # pixel values that become 0 and the full scale
    image_percentiles: tuple[float, float] | None = None  # percentiles of the scene instead
    nodata_image: float | None = None  # a value without data, in addition to the file's own
    nodata_tolerance: float = 0.0  # how far pixel values may be from it, as in lossy images
    nodata_dsm: float | None = None
    aoi: Path | None = None  # file of polygons: only pixels inside are classified
    bbox: tuple[float, float, float, float] | None = None  # box in the image's coordinates
    allow_driver: tuple[str, ...] = tuple(PLAIN_DRIVERS[1:])  # of GDAL, in addition to GeoTIFF
    max_pixels: int = MAX_PIXELS  # larger rasters are refused
    allow_network: tuple[str, ...] = ()  # hosts that rasters may be read from; see `Access`
    use_place: bool = True  # CRS and geotransforms must agree, not the sizes alone
    pixel_size: float | None = None  # of images, metres on the ground, if the dataset states it
    # read at once, so that a file that changes later does not matter; pixels are inside all of them
    areas: tuple[Area, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.resampling is not None:
            if self.resampling not in RESAMPLINGS:
                names = ", ".join(RESAMPLINGS)
                raise UsageError(f"no resampling named {self.resampling!r}; there are {names}")
            if not self.align:
                raise UsageError("--resampling says how to align; add --align")
        if self.resample_to not in (None, MODEL) and not 0 < float(self.resample_to) < float("inf"):
            raise UsageError(f"--resample-to {self.resample_to}: expected metres, above 0")
        if not 0 <= self.nodata_tolerance < float("inf"):
            raise UsageError(f"--nodata-tolerance {self.nodata_tolerance:g}: expected at least 0")
        if self.image_range and self.image_percentiles:
            raise UsageError("--image-range and --image-percentiles exclude each other")
        if self.image_range and not self.image_range[0] < self.image_range[1]:
            low, high = self.image_range
            raise UsageError(f"--image-range {low:g} {high:g}: the first must be the smaller")
        if self.image_percentiles:
            low, high = self.image_percentiles
            if not 0 <= low < high <= 100:
                raise UsageError(
                    f"--image-percentiles {low:g} {high:g}: expected 0 to 100, the smaller first"
                )
        object.__setattr__(self, "areas", self._read_areas())

    @property
    def dsm_resampling(self) -> str | None:
        """How a DSM on another grid is warped; None: it is refused."""
        return (self.resampling or DEFAULT_RESAMPLING) if self.align else None

    @property
    def limits(self) -> RasterLimits:
        """Limits on the raster files that may be opened."""
        return RasterLimits((GEOTIFF, *self.allow_driver), self.max_pixels, self.allow_network)

    def with_image_range(self, found: tuple[float, float] | None) -> ReadOptions:
        """Replace percentiles by the range that they gave."""
        if not self.image_percentiles or found is None or not found[0] < found[1]:
            return self
        return self._with(image_percentiles=None, image_range=found)

    def for_model(self, contract: Contract) -> ReadOptions:
        """Replace the word "model" by the pixel size that a model was trained on.

        Raises:
            UsageError: The model does not state it.
        """
        if self.resample_to != MODEL:
            return self
        if contract.pixel_size is None:
            raise UsageError(
                "--resample-to model: the model does not state the pixel size that it was trained "
                "on; give it in metres"
            )
        return self._with(resample_to=contract.pixel_size)

    def _with(self, **changes: Any) -> ReadOptions:
        """Replace options; areas are not read again."""
        changed = replace(self, **changes, aoi=None, bbox=None)
        object.__setattr__(changed, "areas", self.areas)
        return changed

    def _read_areas(self) -> tuple[Area, ...]:
        if self.aoi is None and self.bbox is None:
            return ()
        from mfnet_runtime.scene.aoi import area_from_box, area_from_file

        areas = [area_from_file(self.aoi)] if self.aoi is not None else []
        return (*areas, *([area_from_box(*self.bbox)] if self.bbox is not None else []))
