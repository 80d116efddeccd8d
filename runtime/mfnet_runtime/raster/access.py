"""What a raster file makes GDAL open besides itself: nothing that lies elsewhere.

A mask (.msk) or overviews (.ovr) beside a file, or a note of where overviews are, can name any file
or URL. They are looked at before GDAL follows them; the sources of a VRT are `vrt_sources`' matter.
Does not keep out someone who changes files while they are read.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

from mfnet_runtime.errors import SceneError
from mfnet_runtime.raster.limits import GEOTIFF, VRT

SIGNATURES = {
    b"II*\0": GEOTIFF,
    b"MM\0*": GEOTIFF,
    b"II+\0": GEOTIFF,  # BigTIFF
    b"MM\0+": GEOTIFF,
    b"\x89PNG": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"<VRTDataset": VRT,
}
LONGEST = max(map(len, SIGNATURES))

SIDECARS = (".msk", ".ovr", ".msk.ovr", ".ovr.msk")
# What GDAL is told before its drivers are there, unless whoever runs the command said otherwise.
LOCAL_ONLY = {
    "GDAL_SKIP": "WMS,WMTS,WCS,HTTP,PLMOSAIC,EEDA,EEDAI,DAAS,STACIT,STACTA,ESRIC,GTI",
    "CPL_VSIL_CURL_ALLOWED_FILENAME": "none",  # of /vsicurl/, /vsis3/ and their like
    "GDAL_VRT_ENABLE_PYTHON": "NO",
    "GDAL_VRT_ENABLE_RAWRASTERBAND": "NO",
    "PROJ_NETWORK": "OFF",
}


def keep_gdal_local() -> None:
    """Have GDAL fetch nothing in this process; to be called before it opens its first file."""
    for name, value in LOCAL_ONLY.items():
        os.environ.setdefault(name, value)


def driver_of(path: Path) -> str | None:
    """The driver of a file by its first bytes; None where they are none that is known.

    Raises:
        OSError: missing, unreadable, or no regular file: reading from a pipe might never end.
    """
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        raise OSError("a folder" if stat.S_ISDIR(mode) else "a pipe or device, no regular file")
    with path.open("rb") as file:
        start = file.read(LONGEST)
    return next((SIGNATURES[known] for known in SIGNATURES if start.startswith(known)), None)


def own_masks(path: Path) -> list[Path]:
    """Masks beside a raster, which GDAL will open with it.

    Raises:
        SceneError: a mask or overviews beside it are no TIFF: GDAL would take a VRT there.
        OSError: the folder or one of those files cannot be read.
    """
    wanted = [f"{path.name}{suffix}".lower() for suffix in SIDECARS]  # GDAL compares so
    with os.scandir(path.absolute().parent) as entries:
        found = [path.with_name(entry.name) for entry in entries if entry.name.lower() in wanted]
    for file in found:
        if driver_of(file) != GEOTIFF:
            raise SceneError(f"{file}: is no TIFF, as beside {path.name} it must be; remove it")
    return [file for file in found if file.name.lower() == wanted[0]]


def require_own_overviews(path: Path, dataset: Any) -> None:
    """Refuse a raster that names another file as its overviews, in itself or in its .aux.xml.

    Raises:
        SceneError: with that name.
    """
    named = dataset.tags(ns="OVERVIEWS").get("OVERVIEW_FILE")
    if named is not None:
        raise SceneError(
            f"{path}: names {named[:200]!r} as its overviews; expected them in {path.name}.ovr; "
            "write it again with gdal_translate"
        )
