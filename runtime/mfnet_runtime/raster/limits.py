"""Limits on the raster files that may be opened: formats, sizes, and nothing that lies elsewhere.

A header of a kilobyte can ask for terabytes, and a mask or overviews beside a file can name any
file or URL. Both are checked before GDAL allocates or follows anything. This does not stop someone
who changes files while they are read.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from mfnet_runtime.errors import SceneError, UsageError
from mfnet_runtime.network.access import Access
from mfnet_runtime.network.url import RasterPath

GEOTIFF = "GTiff"
# Formats whose pixels lie in the file itself, so that reading one follows no path and no URL.
PLAIN_DRIVERS = (GEOTIFF, "PNG", "JPEG")
SIGNATURES = {
    b"II*\0": GEOTIFF,
    b"MM\0*": GEOTIFF,
    b"II+\0": GEOTIFF,  # BigTIFF
    b"MM\0+": GEOTIFF,
    b"\x89PNG": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"<VRTDataset": "VRT",
}
LONGEST = max(map(len, SIGNATURES))
SIDECARS = (".msk", ".ovr", ".msk.ovr", ".ovr.msk")

MAX_PIXELS = 40_000_000_000  # 200,000 a side: 20 km at 10 cm
MAX_BANDS = 4096
MAX_BLOCK = 256 << 20  # bytes of a stored block: GDAL decodes it whole, and keeps several

REMOTE_DRIVERS = "WMS,WMTS,WCS,HTTP,PLMOSAIC,EEDA,EEDAI,DAAS,STACIT,STACTA,ESRIC,GTI"
# GDAL's configuration while it opens or reads one of our rasters, unless the user set it otherwise.
LOCAL_ONLY = {
    "CPL_VSIL_CURL_ALLOWED_FILENAME": "none",  # of /vsicurl/, /vsis3/ and their like
    "GDAL_VRT_ENABLE_PYTHON": "NO",
    "GDAL_VRT_ENABLE_RAWRASTERBAND": "NO",
}


def keep_gdal_local() -> None:
    """Keep GDAL from the network in a process of ours, before it opens its first file.

    `open_raster` does not need it: this is for the commands, where nothing else uses GDAL.
    """
    for name, value in {**LOCAL_ONLY, "GDAL_SKIP": REMOTE_DRIVERS, "PROJ_NETWORK": "OFF"}.items():
        os.environ.setdefault(name, value)


@dataclass(frozen=True)
class RasterLimits:
    """Limits on the files that may be opened."""

    drivers: tuple[str, ...] = PLAIN_DRIVERS  # GDAL's short names; others than these are trusted
    max_pixels: int = MAX_PIXELS  # rows times columns
    hosts: tuple[str, ...] = ()  # that may be read; see `Access`

    def __post_init__(self) -> None:
        if self.max_pixels < 1:
            raise UsageError(f"--max-pixels {self.max_pixels}: expected at least 1")
        if remote := set(self.drivers) & set(REMOTE_DRIVERS.split(",")):
            raise UsageError(f"--allow-driver {min(remote)}: reads from the network; use files")

    @property
    def access(self) -> Access:
        """Hosts that may be read."""
        return Access(self.hosts)

    def drivers_for(self, path: RasterPath, start: bytes) -> list[str]:
        """Return the driver of a file's first bytes, or all that are allowed and have no known one.

        Raises:
            SceneError: The file's driver is not allowed.
            OSError: The file's format is unknown.
        """
        driver = driver_of(start)
        if driver in self.drivers:
            return [driver]
        allowed = ", ".join(self.drivers)
        if driver is not None:
            raise SceneError(
                f"{path}: is of GDAL's driver {driver}; allowed here: {allowed}; allow it with "
                f"--allow-driver {driver}, or write it as GeoTIFF with gdal_translate"
            )
        others = [name for name in self.drivers if name not in SIGNATURES.values()]
        if not others:
            raise OSError(f"starts like no file of {allowed}; --allow-driver names others")
        return others


DEFAULT_LIMITS = RasterLimits()


def driver_of(start: bytes) -> str | None:
    """Return the driver of a file by its first bytes; None if they are unknown."""
    return next((SIGNATURES[known] for known in SIGNATURES if start.startswith(known)), None)


def start_of(path: Path) -> bytes:
    """Read the first bytes of a file.

    Raises:
        OSError: The file is missing, unreadable, or no regular file: a pipe might never end.
    """
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        raise OSError("a folder" if stat.S_ISDIR(mode) else "a pipe or device, no regular file")
    with path.open("rb") as file:
        return file.read(LONGEST)


def masks_beside(path: Path) -> list[Path]:
    """Return the masks beside a raster, which GDAL opens with it.

    Raises:
        SceneError: A mask or overviews beside it are no TIFF: GDAL would accept a VRT.
        OSError: The folder or one of those files cannot be read.
    """
    wanted = [f"{path.name}{suffix}".lower() for suffix in SIDECARS]  # as GDAL compares names
    with os.scandir(path.absolute().parent) as entries:
        found = [path.with_name(entry.name) for entry in entries if entry.name.lower() in wanted]
    for file in found:
        if driver_of(start_of(file)) != GEOTIFF:
            raise SceneError(f"{file}: is no TIFF, as beside {path.name} it must be; remove it")
    return [file for file in found if file.name.lower() == wanted[0]]
