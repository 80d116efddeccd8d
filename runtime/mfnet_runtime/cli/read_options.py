"""The options of `mfnet-run` that say how scenes are to be read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mfnet_runtime.console import option_group, parse_bands
from mfnet_runtime.errors import UsageError
from mfnet_runtime.raster.limits import GEOTIFF, MAX_PIXELS

if TYPE_CHECKING:
    from mfnet_runtime.raster.limits import RasterLimits
    from mfnet_runtime.scene.options import ReadOptions

DEFAULT_RESAMPLING = "bilinear"


@dataclass(frozen=True)
class ReadWords:
    """What the command line says about reading, as click gives it."""

    dsm: Path | None
    dsm_band: int | None
    align: bool
    resampling: str | None
    bands: str | None
    ignore_alpha: bool
    image_range: tuple[float, float] | None
    image_percentiles: tuple[float, float] | None
    nodata_image: float | None
    nodata_dsm: float | None
    aoi: Path | None
    bbox: tuple[float, float, float, float] | None
    allow_driver: tuple[str, ...]
    max_pixels: int

    def options(self) -> ReadOptions:
        """How to read every scene.

        Raises:
            UsageError: words that contradict each other, or an area that cannot be read.
        """
        from mfnet_runtime.scene.aoi import area_from_box, area_from_file
        from mfnet_runtime.scene.options import ReadOptions

        limits = self._limits()
        if self.resampling is not None and not self.align:
            raise UsageError("--resampling says how to align; add --align")
        areas = [area_from_file(self.aoi)] if self.aoi is not None else []
        areas += [area_from_box(*self.bbox)] if self.bbox is not None else []
        return ReadOptions(
            bands=parse_bands(self.bands) if self.bands else None,
            use_alpha=not self.ignore_alpha,
            align=(self.resampling or DEFAULT_RESAMPLING) if self.align else None,
            image_nodata=self.nodata_image,
            dsm_nodata=self.nodata_dsm,
            image_range=self.image_range,
            image_percentiles=self.image_percentiles,
            areas=tuple(areas),
            limits=limits,
        )

    def _limits(self) -> RasterLimits:
        """Which rasters may be opened; from here on GDAL fetches nothing.

        Raises:
            UsageError: GDAL has no such driver here.
        """
        import rasterio

        from mfnet_runtime.raster.limits import RasterLimits, keep_gdal_local

        keep_gdal_local()
        with rasterio.Env() as gdal:
            known = gdal.drivers()
        for name in self.allow_driver:
            if name not in known:
                raise UsageError(
                    f"--allow-driver {name}: GDAL has no such driver here, or it is one that reads "
                    "from the network; the names are those of gdalinfo --formats, as PNG or VRT"
                )
        return RasterLimits((GEOTIFF, *self.allow_driver), self.max_pixels)


_PATH = click.Path(path_type=Path)
_OPTIONS = (
    click.option(
        "--dsm", type=_PATH, help="Height model of one image, or folder of those of many."
    ),
    click.option(
        "--dsm-band",
        type=click.IntRange(min=1),
        help="Band that holds the heights; of the images themselves where there are no DSMs.",
    ),
    click.option(
        "--align", is_flag=True, help="Warp a DSM on another grid to the image's while reading."
    ),
    click.option(
        "--resampling",
        type=click.Choice(["bilinear", "nearest", "cubic", "average"]),
        help=f"How --align does it [default: {DEFAULT_RESAMPLING}].",
    ),
    click.option("--bands", help="Image bands to use, for example 1,2,3 [default: all but alpha]."),
    click.option(
        "--ignore-alpha", is_flag=True, help="A band flagged as alpha is none: near infrared, say."
    ),
    click.option(
        "--image-range",
        type=float,
        nargs=2,
        metavar="MIN MAX",
        help="Pixel values that become 0 and the model's full scale [default: as stored].",
    ),
    click.option(
        "--image-percentiles",
        type=float,
        nargs=2,
        metavar="LOW HIGH",
        help="The same, by percentiles of each scene: 2 98, say.",
    ),
    click.option(
        "--nodata-image", type=float, help="Pixel value without data, besides what files declare."
    ),
    click.option(
        "--nodata-dsm", type=float, help="Height without data, besides what files declare."
    ),
    click.option(
        "--aoi", type=_PATH, help="Polygons, GeoJSON or GeoPackage, outside of which is nodata."
    ),
    click.option(
        "--bbox",
        type=float,
        nargs=4,
        metavar="MINX MINY MAXX MAXY",
        help="Box in the image's coordinates, outside of which is nodata.",
    ),
    click.option(
        "--allow-driver",
        multiple=True,
        metavar="NAME",
        help="Read files of this GDAL driver besides GTiff: PNG, JPEG, VRT; repeatable.",
    ),
    click.option(
        "--max-pixels",
        type=click.IntRange(min=1),
        default=MAX_PIXELS,
        help=f"Refuse larger rasters [default: {MAX_PIXELS}].",
    ),
)

read_options = option_group(ReadWords, "reading", {"Reading": _OPTIONS})
