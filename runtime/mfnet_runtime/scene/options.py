"""How the rasters of a scene are to be read: what a run asks for, whatever the scene."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mfnet_runtime.errors import UsageError
from mfnet_runtime.raster.limits import DEFAULT_LIMITS, RasterLimits
from mfnet_runtime.scene.aoi import Area

Pair = tuple[float, float]

RESAMPLINGS = ("bilinear", "nearest", "cubic", "average")


@dataclass(frozen=True)
class ReadOptions:
    """Choices for every scene of a run."""

    bands: Sequence[int] | None = None  # of the image, from 1, three; None: all but alpha
    use_alpha: bool = True  # whether an alpha band masks; off where it is an infrared band
    use_place: bool = True  # whether CRS and transforms must agree, not the sizes alone
    align: str | None = None  # how to warp a DSM on another grid; None refuses it
    image_nodata: float | None = None  # a value without data, in addition to the file's own
    dsm_nodata: float | None = None
    image_range: Pair | None = None  # pixel values that become 0 and the model's full scale
    image_percentiles: Pair | None = None  # percent of the scene's pixels; instead of a range
    areas: tuple[Area, ...] = ()  # only pixels inside all of them are wanted
    limits: RasterLimits = DEFAULT_LIMITS  # which files may be opened; no pixel depends on them

    def __post_init__(self) -> None:
        if self.align is not None and self.align not in RESAMPLINGS:
            raise UsageError(
                f"no resampling named {self.align!r}; there are {', '.join(RESAMPLINGS)}"
            )
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
