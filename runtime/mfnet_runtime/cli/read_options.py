"""The options about reading scenes, the same for all commands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from mfnet_runtime.console import option_group, parse_bands
from mfnet_runtime.errors import UsageError
from mfnet_runtime.network.access import Access
from mfnet_runtime.network.url import Url, raster_path
from mfnet_runtime.raster.limits import MAX_PIXELS, keep_gdal_local
from mfnet_runtime.scene.options import DEFAULT_RESAMPLING, MODEL, RESAMPLINGS, ReadOptions


def _bands(context: Any, option: Any, text: str | None) -> tuple[int, int, int] | None:
    return parse_bands(text) if text else None


def _drivers(context: Any, option: Any, names: Sequence[str]) -> Sequence[str]:
    """Keep GDAL from the network before it is first used, and require that it has these drivers."""
    keep_gdal_local()
    if names:
        import rasterio

        with rasterio.Env() as gdal:
            known = gdal.drivers()
        for name in names:
            if name not in known:
                raise UsageError(
                    f"--allow-driver {name}: GDAL has no such driver here, or it is one that reads "
                    "from the network; gdalinfo --formats lists names such as PNG or VRT"
                )
    return names


def _hosts(context: Any, option: Any, names: Sequence[str]) -> Sequence[str]:
    Access(names)
    return names


class RasterPathType(click.Path):
    """A path, or an address on the network."""

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """See `click.ParamType.convert`."""
        path = raster_path(value)
        return path if isinstance(path, Url) else super().convert(value, param, ctx)


def _pixel_size(context: Any, option: Any, text: str | None) -> float | str | None:
    if text in (None, MODEL):
        return text
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"--resample-to {text}: expected metres on the ground, or model") from None


allow_driver_option = click.option(
    "--allow-driver",
    multiple=True,
    metavar="NAME",
    callback=_drivers,
    help="Also read files of this GDAL driver: PNG, JPEG, or others that are trusted, "
    "such as VRT, which shows any file it names; repeatable.",
)

allow_network_option = click.option(
    "--allow-network",
    multiple=True,
    metavar="HOST",
    callback=_hosts,
    help="Also read rasters from https://HOST; or HOST:PORT, http://HOST, s3://BUCKET, or any, for "
    "all of the internet over HTTPS; repeatable.",
)

_GROUPS = {
    "Reading": [
        click.option(
            "--align", is_flag=True, help="Warp a DSM on another grid to the image's grid."
        ),
        click.option(
            "--resampling",
            type=click.Choice(RESAMPLINGS),
            help=f"Resampling of --align [default: {DEFAULT_RESAMPLING}].",
        ),
        click.option(
            "--resample-to",
            metavar="SIZE|model",
            callback=_pixel_size,
            help="Read image and DSM at this pixel size, metres on the ground, or at the model's; "
            "outputs keep the image's grid.",
        ),
        click.option(
            "--bands",
            callback=_bands,
            help="Image bands to use, for example 1,2,3 [default: all but alpha].",
        ),
        click.option(
            "--ignore-alpha",
            is_flag=True,
            help="Treat the alpha band as data (for example near infrared).",
        ),
        click.option(
            "--image-range",
            type=float,
            nargs=2,
            metavar="MIN MAX",
            help="Pixel values scaled to 0 and the model's full scale [default: as stored].",
        ),
        click.option(
            "--image-percentiles",
            type=float,
            nargs=2,
            metavar="LOW HIGH",
            help="The same by percentiles of each scene, for example 2 98.",
        ),
        click.option(
            "--nodata-image",
            type=float,
            help="Pixel value without data, in addition to what files declare.",
        ),
        click.option(
            "--nodata-tolerance",
            type=float,
            default=0.0,
            metavar="T",
            help="Pixel values within T of nodata are nodata, as in the margins of JPEGs.",
        ),
        click.option(
            "--nodata-dsm",
            type=float,
            help="Height without data, in addition to what files declare.",
        ),
        click.option(
            "--aoi",
            type=click.Path(path_type=Path),
            help="GeoJSON, KML, GeoPackage or shapefile of polygons; pixels outside become nodata.",
        ),
        click.option(
            "--bbox",
            type=float,
            nargs=4,
            metavar="MINX MINY MAXX MAXY",
            help="Box in the image's coordinates; pixels outside become nodata.",
        ),
        allow_driver_option,
        click.option(
            "--max-pixels",
            type=click.IntRange(min=1),
            default=MAX_PIXELS,
            help=f"Refuse larger rasters [default: {MAX_PIXELS}].",
        ),
    ],
}


def read_options(
    plain: Sequence[str] = (), network: bool = False
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add the options of `ReadOptions`, as the argument `read`.

    Args:
        plain: GDAL's drivers that need no `--allow-driver`, in addition to GeoTIFF.
        network: Add `--allow-network`: scenes can be on the network.
    """
    groups = {"Reading": [*_GROUPS["Reading"], *([allow_network_option] if network else [])]}

    def options(allow_driver: Sequence[str], **given: Any) -> ReadOptions:
        return ReadOptions(allow_driver=(*plain, *allow_driver), **given)

    return option_group(options, "read", groups)
