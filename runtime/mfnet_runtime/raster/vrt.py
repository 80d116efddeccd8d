"""Which files a VRT is made of: TIFFs beside or below it, or it is refused.

A VRT can name any file or URL as its source, read raw bytes of any file, and hold code. Only plain
mosaics are let through, and their sources are found before GDAL opens them.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

from mfnet_runtime.errors import SceneError
from mfnet_runtime.raster.access import driver_of
from mfnet_runtime.raster.limits import GEOTIFF, VRT

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


def own_sources(path: Path) -> list[Path]:
    """The TIFFs that a VRT shows, those of VRTs in it included.

    Raises:
        SceneError: it is more than a mosaic of TIFFs beside or below it, links followed; names
            the VRT and what was found in it.
        OSError: a file cannot be read.
    """
    found = _Sources(_followed(path).parent)
    found.take(path, 0)
    return list(found.tiffs)


@dataclass
class _Sources:
    """What was found so far."""

    folder: Path  # in which sources must lie
    tiffs: dict[Path, None] = field(default_factory=dict)  # in the order they are named
    vrts: set[Path] = field(default_factory=set)  # looked through, so that none is twice

    def take(self, path: Path, above: int) -> None:
        """Look through a VRT that is a source of others, `above` of them in a row."""
        real = _followed(path)  # GDAL counts from there too
        if above == MAX_NESTED:
            raise SceneError(
                f"{path}: is a VRT inside {above} others, or inside itself; name TIFFs"
            )
        for element in _elements(path):
            _require_plain(path, element)
            if element.tag != "SourceFilename":
                continue
            named = element.text or ""
            source = real.parent / named if element.get("relativeToVRT") == "1" else Path(named)
            inside = source.is_absolute() and _followed(source).is_relative_to(self.folder)
            if ":" in named or not inside:
                raise SceneError(
                    f"{path}: names {named[:200]!r}; expected files in {self.folder} or below, "
                    "no URLs"
                )
            if source not in self.tiffs:
                self._take_source(source, path, above)
        self.vrts.add(real)

    def _take_source(self, source: Path, vrt: Path, above: int) -> None:
        driver = driver_of(source)
        if driver == GEOTIFF:
            self.tiffs[source] = None
        elif driver != VRT:  # GDAL offers a source to all drivers; a TIFF no other takes
            raise SceneError(f"{source}: is no TIFF, as a source of {vrt.name} must be")
        elif _followed(source) not in self.vrts:
            self.take(source, above + 1)


def _followed(path: Path) -> Path:
    """Where links lead; those in a circle lead nowhere, where `Path.resolve` would raise."""
    return Path(os.path.realpath(path))


def _require_plain(path: Path, element: ElementTree.Element) -> None:
    """Refuse what is no part of a mosaic, or scales pixels."""
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
