"""Rasters that reach for other files or the network: R14.

The secrets are watched by the kernel and the port by the test, so that GDAL's own reading counts.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from faults.cell import Cell
from faults.rasters import IMAGE, SKIPPED
from faults.workplace import Workplace
from support import write_raster

ALLOWED = "--allow-driver"
PLACE = '<{0} xOff="0" yOff="0" xSize="48" ySize="40"/>'
PASSWORDS = "/etc/passwd"


def vrt(
    name: str, *, allowed: bool = True, kind: str = "", raw: str = ""
) -> Callable[[Workplace], None]:
    """In the place of the image: a VRT whose bands are those of another file.

    Args:
        name: That file; {secret} and {port} are filled in.
        allowed: Whether the command line allows VRTs.
        kind: Attributes of bands.
        raw: What else bands hold.
    """

    def plant(place: Workplace) -> None:
        secret = write_raster(place.root / "secret.tif", np.full((3, 40, 48), 7, np.uint8))
        place.secrets.append(secret)
        file = name.format(secret=secret, port=place.port)
        bands = "".join(
            f'<VRTRasterBand dataType="Byte" band="{band}"{kind}>{raw}<SimpleSource>'
            f'<SourceFilename relativeToVRT="{int(not file.startswith("/"))}">{file}'
            f"</SourceFilename><SourceBand>{band}</SourceBand>{PLACE.format('SrcRect')}"
            f"{PLACE.format('DstRect')}</SimpleSource></VRTRasterBand>"
            for band in (1, 2, 3)
        )
        place.image.write_text(
            f'<VRTDataset rasterXSize="48" rasterYSize="40">{bands}</VRTDataset>'
        )
        if allowed:
            place.words += [ALLOWED, "VRT"]

    return plant


def refused(what: str, says: str, plant: Callable[[Workplace], None]) -> Cell:
    return Cell("R14", what, 4, f"{SKIPPED}; nothing opened", plant, (IMAGE, says))


def mask_beside(place: Workplace) -> None:
    """GDAL takes any format for a mask beside a TIFF."""
    vrt("{secret}", allowed=False)(place)
    place.image.rename(place.image.with_name("b.tif.msk"))
    place.write(np.full((3, 40, 48), 5, np.uint8))


def circle(place: Workplace) -> None:
    vrt("loop")(place)
    (place.image.parent / "loop").symlink_to("loop")


RAW = "<SourceFilename>/etc/passwd</SourceFilename><ImageOffset>0</ImageOffset>"
ELSEWHERE = "expected files in"
CELLS = (
    refused("VRT named .tif", "allow it with --allow-driver VRT", vrt("{secret}", allowed=False)),
    refused("VRT allowed, of a file elsewhere", ELSEWHERE, vrt("{secret}")),
    refused("VRT allowed, of ../ a file", ELSEWHERE, vrt("../../secret.tif")),
    refused("VRT allowed, of /etc/passwd", ELSEWHERE, vrt(PASSWORDS)),
    refused("VRT allowed, of a URL", ELSEWHERE, vrt("/vsicurl/http://127.0.0.1:{port}/a.tif")),
    refused(
        "VRT allowed, raw bytes of a file", "write it as GeoTIFF",
        vrt("{secret}", kind=' subClass="VRTRawRasterBand"', raw=RAW),
    ),
    refused("VRT allowed, of itself", "name TIFFs", vrt("b.tif")),
    refused("VRT allowed, of links in a circle", "Too many levels of symbolic links", circle),
    Cell(
        "R14", "mask beside a TIFF that is a VRT", 4, f"{SKIPPED}; nothing opened", mask_beside,
        ("b.tif.msk: is no TIFF", "remove it"),
    ),
)  # fmt: skip
