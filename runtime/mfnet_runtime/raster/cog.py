"""A cloud-optimised GeoTIFF from a GeoTIFF: overviews, 512 px tiles, what is read first in front.

Knows nothing of classes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import rasterio
import rasterio.shutil
from rasterio._err import CPLE_BaseError  # GDAL's errors; not all are wrapped
from rasterio.errors import RasterioError

from mfnet_runtime.raster.open import no_place_is_fine
from mfnet_runtime.subprocesses import call_apart

Resampling = Literal["mode", "average"]

BLOCK = 512  # pixels a side
UNPACKED = {"COG_TMP_COMPRESSION": "NONE"}  # overviews on their way: packing takes a third of all
CACHE = 64 << 20  # bytes: GDAL would take 5% of all memory
ROWS = "128"  # of large files: as many as GDAL takes are 200 MiB where they are 100,000 px wide
PIXELS_HERE = 1 << 28  # more take so long that they get a process of their own: some 5 s


def cog_from_tiff(source: Path, target: Path, overviews: Resampling, pixels: int) -> None:
    """Copy a GeoTIFF, tags and palette included; GDAL puts its temporary files beside `target`.

    Args:
        source: With nodata, if any, stated.
        target: In a folder of its own.
        overviews: How a pixel of an overview follows from those under it.
        pixels: Of the source, all bands together.

    Raises:
        OSError: unreadable, or the disk is full. Not all of the latter is noticed: read it back.
    """
    words = (str(source), str(target), overviews)
    if pixels > PIXELS_HERE:
        call_apart(__name__, "write_cog", *words, ROWS)
    else:
        write_cog(*words)


def write_cog(source: str, target: str, overviews: Resampling, rows: str | None = None) -> None:
    """`cog_from_tiff` in this process, by so many rows of an overview at a time if told."""
    try:
        options = {"CPL_TMPDIR": str(Path(target).parent), "GDAL_CACHEMAX": CACHE, **UNPACKED}
        if rows is not None:
            options["GDAL_OVR_CHUNKYSIZE"] = rows
        with rasterio.Env(**options), no_place_is_fine():
            rasterio.shutil.copy(
                source,
                target,
                driver="COG",
                BLOCKSIZE=BLOCK,
                COMPRESS="DEFLATE",  # every reader knows it
                LEVEL=5,  # 6 takes twice as long over noise, and saves a fifth
                OVERVIEW_RESAMPLING=overviews.upper(),
                BIGTIFF="IF_SAFER",
                NUM_THREADS="ALL_CPUS",
            )
    except (RasterioError, CPLE_BaseError) as fault:
        raise OSError(" ".join(str(fault.__cause__ or fault).split())) from fault
