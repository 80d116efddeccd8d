"""What a raster file makes GDAL open besides itself: nothing that lies elsewhere.

A mask (.msk) or overviews (.ovr) beside a file, a note of where overviews are, and the sources of a
VRT can name any file or URL. All are looked at before GDAL follows them. Does not keep out someone
who changes files while they are read.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from mfnet_runtime.errors import SceneError
from mfnet_runtime.raster_limits import GEOTIFF, VRT

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
MAX_VRT = 64 << 20  # bytes; a mosaic of 100,000 tiles is shorter
MAX_NESTED = 8  # VRTs in VRTs
# All that a VRT may hold: pixels of other files, side by side. Whatever else there is names files
# in further places (warped, pansharpened and processed VRTs), reads raw bytes, or holds code.
ELEMENTS = frozenset(
    "VRTDataset SRS GeoTransform GCPList GCP Metadata MDI BlockXSize BlockYSize VRTRasterBand "
    "MaskBand Description UnitType Offset Scale ColorInterp ColorTable Entry NoDataValue "
    "HideNoDataValue CategoryNames Category Histograms HistItem HistMin HistMax BucketCount "
    "IncludeOutOfRange Approximate HistCounts SimpleSource ComplexSource SourceFilename SourceBand "
    "SourceProperties SrcRect DstRect NODATA UseMaskBand ScaleOffset ScaleRatio LUT".split()
)
# GDAL takes an attribute for an element of that name, whatever its case.
ATTRIBUTES = frozenset(
    "rasterXSize rasterYSize dataType band subClass blockXSize blockYSize dataAxisToSRSAxisMapping "
    "coordinateEpoch Projection Id Info Pixel Line X Y Z domain format key c1 c2 c3 c4 resampling "
    "relativeToVRT shared RasterXSize RasterYSize DataType BlockXSize BlockYSize xOff yOff xSize "
    "ySize".split()
)
PLAIN = "VRTSourcedRasterBand"  # the class of bands, if they state one
SOURCES = ("SimpleSource", "ComplexSource")
MARKUP = (b"<!", b"<?")  # comments, definitions and the like, which parsers read differently

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


def require_own_sidecars(path: Path) -> None:
    """Refuse a mask or overviews beside a raster that are no TIFF: GDAL would take a VRT there.

    Raises:
        SceneError: names that file.
        OSError: the folder or that file cannot be read.
    """
    wanted = [f"{path.name}{suffix}".lower() for suffix in SIDECARS]  # GDAL compares so
    with os.scandir(path.absolute().parent) as entries:
        found = [path.with_name(entry.name) for entry in entries if entry.name.lower() in wanted]
    for file in found:
        if driver_of(file) != GEOTIFF:
            raise SceneError(f"{file}: is no TIFF, as beside {path.name} it must be; remove it")


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


def require_own_sources(path: Path, folder: Path | None = None, above: int = 0) -> None:
    """Refuse a VRT unless all its pixels are those of TIFFs beside or below it.

    Args:
        path: The VRT.
        folder: Where its sources must lie, links followed; None is its own folder.
        above: VRTs that it is a source of.

    Raises:
        SceneError: names the VRT and what was found in it.
        OSError: a file cannot be read.
    """
    real = path.resolve()  # GDAL counts from there too
    folder = folder or real.parent
    if above == MAX_NESTED:
        raise SceneError(f"{path}: is a VRT inside {above} others, or inside itself; name TIFFs")
    for element in _elements(path):
        foreign = [name for name in element.attrib if name not in ATTRIBUTES]
        foreign += [element.tag] if element.tag not in ELEMENTS else []
        foreign += [kind for kind in [element.get("subClass", PLAIN)] if kind != PLAIN]
        if foreign:
            raise SceneError(
                f"{path}: holds {foreign[0][:60]!r}; of VRTs only mosaics of TIFFs are read; "
                "write it as GeoTIFF with gdal_translate"
            )
        if element.tag in SOURCES and not _is_unscaled(element):
            raise SceneError(
                f"{path}: scales what it shows, or does not say from where to where; of VRTs only "
                "mosaics of one resolution are read; write it as GeoTIFF with gdal_translate"
            )
        if element.tag == "SourceFilename":
            named = element.text or ""
            source = real.parent / named if element.get("relativeToVRT") == "1" else Path(named)
            if ":" in named or not source.is_absolute() or not _lies_in(source, folder):
                raise SceneError(
                    f"{path}: names {named[:200]!r}; expected files in {folder} or below, no URLs"
                )
            _require_own_source(source, path, folder, above)


def _require_own_source(source: Path, vrt: Path, folder: Path, above: int) -> None:
    driver = driver_of(source)
    if driver == VRT:
        require_own_sources(source, folder, above + 1)
    elif driver != GEOTIFF:  # GDAL offers a source to all drivers; a TIFF no other takes
        raise SceneError(f"{source}: is no TIFF, as a source of {vrt.name} must be")
    require_own_sidecars(source)


def _lies_in(path: Path, folder: Path) -> bool:
    real = os.path.realpath(path)  # `Path.resolve` raises where links go in a circle
    return Path(real).is_relative_to(folder)


def _is_unscaled(source: ElementTree.Element) -> bool:
    """Whether whole pixels are shown as they are: else GDAL would look for overviews."""
    rectangles = [source.findall(tag) for tag in ("SrcRect", "DstRect")]
    if any(len(found) != 1 for found in rectangles):
        return False
    try:
        (sizes, target), offsets = (
            [[float(found[0].get(name, "")) for name in names] for found in rectangles]
            for names in (("xSize", "ySize"), ("xOff", "yOff"))
        )
    except ValueError:
        return False
    return sizes == target and all(value.is_integer() for value in sum(offsets, sizes))


def _elements(path: Path) -> list[ElementTree.Element]:
    """All elements of a VRT.

    Raises:
        SceneError: too long, or not plain XML.
        OSError: it cannot be read.
    """
    if path.stat().st_size > MAX_VRT:
        raise SceneError(f"{path}: is longer than {MAX_VRT >> 20} MiB; make several of it")
    text = path.read_bytes()
    if any(mark in text for mark in MARKUP):
        raise SceneError(f"{path}: holds XML comments or definitions; write it with gdalbuildvrt")
    try:
        return list(ElementTree.fromstring(text).iter())
    except (ElementTree.ParseError, ValueError) as fault:
        raise SceneError(f"{path}: is no XML ({fault}); write it with gdalbuildvrt") from fault
