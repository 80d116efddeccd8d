"""GeoTIFFs of uint8 bands: blocks of a scene, and the cloud-optimised file put together from them.

rasterio ignores the status of GDAL's close, where most bytes of a small file reach the disk. Every
file is therefore read back and compared before it is renamed.
"""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4
from xml.sax.saxutils import escape

import numpy as np
import numpy.typing as npt
import rasterio
import rasterio.shutil
from rasterio._err import CPLE_BaseError  # GDAL's errors; not all are wrapped
from rasterio.enums import ColorInterp
from rasterio.errors import RasterioError
from rasterio.windows import Window

from mfnet_runtime.files import replace_files
from mfnet_runtime.labels import IGNORE
from mfnet_runtime.raster.open import no_place_is_fine
from mfnet_runtime.subprocesses import call_in_subprocess

Rows = npt.NDArray[np.uint8]  # (band, row, column)
Seen = Callable[[int, Rows], None]  # called with the first row of rows that were read back
Resampling = Literal["mode", "average"]

TILE = 512  # pixels a side
CACHE = 64 << 20  # bytes of GDAL's block cache; its default is 5 % of all memory
UNPACKED = {"COG_TMP_COMPRESSION": "NONE"}  # compressing temporary overviews takes a third longer
CHUNK_ROWS = "128"  # of overviews of large files; GDAL's default takes 200 MiB at 100,000 columns
PIXELS_HERE = 1 << 28  # larger files take long enough (5 s) to need an interruptible process


@dataclass(frozen=True)
class Layer:
    """The content of a raster of uint8 bands; 255 is nodata."""

    bands: tuple[str, ...]  # description of each
    overviews: Resampling
    palette: Mapping[int, tuple[int, int, int, int]] | None = None  # RGBA, for a single band


@dataclass(frozen=True)
class Metadata:
    """Size, place and tags that all rasters of a scene share."""

    shape: tuple[int, int]  # rows and columns, pixels
    place: Mapping[str, Any]  # `crs` and `transform`, or `gcps`, without None
    tags: Mapping[str, str]  # provenance; no local paths


@dataclass(frozen=True)
class Block:
    """A file with some rows and columns of a raster."""

    path: Path
    columns: range
    rows: range
    checksums: tuple[int, ...]  # CRC-32 of each band's pixels, row by row

    def is_intact(self) -> bool:
        """Read the file and compare its pixels with the checksums."""
        try:
            return block_checksums(self.path) == self.checksums
        except OSError:
            return False


class BlockWriter:
    """Writes a block under a temporary name; a context manager that verifies and renames it.

    Args:
        path: Of the block; its folder exists.
        bands: Their number.
        shape: Rows and columns, pixels.

    Raises:
        OSError: it cannot be written, or it reads back differently; so do all methods.
    """

    def __init__(self, path: Path, bands: int, shape: tuple[int, int]) -> None:
        self._path, self._partial = path, path.with_name(f".{uuid4().hex}.tif")
        self._size = {"count": bands, "height": shape[0], "width": shape[1]}
        self._row = 0
        self.checksums = (0,) * bands  # of the rows written so far, as in `Block`

    def __enter__(self) -> BlockWriter:
        tiles = {"tiled": True, "interleave": "band"}
        for axis, size in (("blockxsize", "width"), ("blockysize", "height")):
            tiles[axis] = _tile(self._size[size])
        kind = {"driver": "GTiff", "dtype": "uint8", "bigtiff": "if_safer"}
        with _os_errors(), no_place_is_fine():
            self._target: Any = rasterio.open(self._partial, "w", **kind, **self._size, **tiles)
        return self

    def write(self, rows: Rows) -> None:
        """Append rows below those written so far."""
        with _os_errors():
            self._target.write(rows, window=Window(0, self._row, rows.shape[2], rows.shape[1]))
        self._row += rows.shape[1]
        self.checksums = _add(self.checksums, rows)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            with suppress(*([OSError] if kind else [])), _os_errors(), no_place_is_fine():
                self._target.close()
            if kind is None:
                if block_checksums(self._partial) != self.checksums:
                    raise OSError("what was read back differs from what was written")
                replace_files([(self._partial, self._path)])
        finally:
            self._partial.unlink(missing_ok=True)


def block_checksums(path: Path) -> tuple[int, ...]:
    """Read a block and return the CRC-32 of each band's pixels, row by row.

    Raises:
        OSError: it cannot be read.
    """
    with _os_errors(), no_place_is_fine(), rasterio.open(path, driver="GTiff") as block:
        return checksums(block, Window(0, 0, block.width, block.height))


def write_cog(
    path: Path,
    layer: Layer,
    metadata: Metadata,
    blocks: Sequence[Block],
    first: int = 1,
    seen: Seen | None = None,
) -> None:
    """Put blocks together into a cloud-optimised GeoTIFF, and read it back.

    Args:
        path: A new file; temporary files are written to its folder.
        layer: What it holds.
        metadata: Size, place and tags.
        blocks: They cover the raster.
        first: The band of the blocks that holds the layer's first band.
        seen: Called with all rows read back, block by block.

    Raises:
        OSError: it cannot be written, a block is damaged, or it reads back differently.
    """
    mosaic = path.with_suffix(".vrt")
    bands = len(layer.bands)
    with _os_errors(), no_place_is_fine(), rasterio.Env(GDAL_CACHEMAX=CACHE):
        write_mosaic(mosaic, layer, metadata, blocks, first)
        copy_to_cog(mosaic, path, layer.overviews, math.prod(metadata.shape) * bands)
        with rasterio.open(path, driver="GTiff") as written:
            _require_metadata(written, layer, metadata)
            for block in blocks:
                columns, rows = block.columns, block.rows
                window = Window(columns.start, rows.start, len(columns), len(rows))
                found = checksums(written, window, seen)
                if found != block.checksums[first - 1 : first - 1 + bands]:
                    raise OSError(f"what was read back differs from block {block.path.name}")


def write_mosaic(
    path: Path, layer: Layer, metadata: Metadata, blocks: Sequence[Block], first: int
) -> None:
    """Write a VRT of blocks; arguments as for `write_cog`."""
    height, width = metadata.shape
    kind = {"driver": "VRT", "dtype": "uint8", "nodata": IGNORE, "count": len(layer.bands)}
    with rasterio.open(path, "w", **kind, height=height, width=width, **metadata.place) as target:
        target.update_tags(**metadata.tags)
        if layer.palette:
            target.write_colormap(1, layer.palette)
        for band, description in enumerate(layer.bands, start=1):
            target.set_band_description(band, description)
            sources = {
                f"source_{index}": _source(path, block, first + band - 1)
                for index, block in enumerate(blocks)
            }
            target.update_tags(band, ns="new_vrt_sources", **sources)


def _tile(pixels: int) -> int:
    """Return the side of the tiles of a block; TIFF takes multiples of 16."""
    return min(TILE, -(-pixels // 16) * 16)


def _source(mosaic: Path, block: Block, band: int) -> str:
    name = escape(os.path.relpath(block.path, mosaic.parent))
    width, height = len(block.columns), len(block.rows)
    size = f'xSize="{width}" ySize="{height}"'
    place = f'xOff="{block.columns.start}" yOff="{block.rows.start}"'
    return (
        f'<SimpleSource><SourceFilename relativeToVRT="1">{name}</SourceFilename>'
        f"<SourceBand>{band}</SourceBand>"
        # stated so that the file is opened only when it is read
        f'<SourceProperties RasterXSize="{width}" RasterYSize="{height}" DataType="Byte" '
        f'BlockXSize="{_tile(width)}" BlockYSize="{_tile(height)}"/>'
        f'<SrcRect xOff="0" yOff="0" {size}/><DstRect {place} {size}/></SimpleSource>'
    )


def copy_to_cog(source: Path, target: Path, overviews: Resampling, pixels: int) -> None:
    """Copy a raster, tags and palette included; temporary files go to the folder of `target`.

    Args:
        source: A GeoTIFF or VRT that declares its nodata.
        target: A new file.
        overviews: How overviews are computed.
        pixels: Of the source, all bands together; a large copy runs in a process of its own.

    Raises:
        OSError: the source is unreadable, or the disk is full. Not every error is noticed.
    """
    arguments = (str(source), str(target), overviews)
    if pixels > PIXELS_HERE:
        call_in_subprocess(__name__, "copy_here", *arguments, CHUNK_ROWS)
    else:
        copy_here(*arguments)


def copy_here(source: str, target: str, overviews: str, chunk_rows: str | None = None) -> None:
    """`copy_to_cog` in this process."""
    options = {"CPL_TMPDIR": str(Path(target).parent), "GDAL_CACHEMAX": CACHE, **UNPACKED}
    if chunk_rows is not None:
        options["GDAL_OVR_CHUNKYSIZE"] = chunk_rows
    with _os_errors(), no_place_is_fine(), rasterio.Env(**options):
        rasterio.shutil.copy(
            source,
            target,
            driver="COG",
            BLOCKSIZE=TILE,
            COMPRESS="DEFLATE",  # every reader supports it
            LEVEL=5,  # 6 takes twice as long for noise and saves a fifth
            OVERVIEW_RESAMPLING=overviews.upper(),
            BIGTIFF="IF_SAFER",
            NUM_THREADS="ALL_CPUS",
        )


def checksums(dataset: Any, window: Window, seen: Seen | None = None) -> tuple[int, ...]:
    """Read a window and return the CRC-32 of each band's pixels, row by row."""
    start, stop = window.row_off, window.row_off + window.height
    sums: tuple[int, ...] = (0,) * dataset.count
    for tile in range(start - start % TILE, stop, TILE):  # so that no tile is read twice
        top, bottom = max(tile, start), min(tile + TILE, stop)
        rows = dataset.read(window=Window(window.col_off, top, window.width, bottom - top))
        sums = _add(sums, rows)
        if seen:
            seen(top, rows)
    return sums


def _add(sums: Sequence[int], rows: Rows) -> tuple[int, ...]:
    return tuple(
        zlib.crc32(np.ascontiguousarray(band).data, total)
        for band, total in zip(rows, sums, strict=True)
    )


def _require_metadata(written: Any, layer: Layer, metadata: Metadata) -> None:
    """Compare everything but the pixels with what was asked for."""
    place, tags = metadata.place, dict(metadata.tags)
    transform = place.get("transform")
    indexed = written.colorinterp[0] is ColorInterp.palette
    palette = written.colormap(1) if indexed else {}
    same = {
        "size": (written.count, *written.shape) == (len(layer.bands), *metadata.shape),
        "data type": set(written.dtypes) == {"uint8"},
        "nodata": set(written.nodatavals) == {IGNORE},
        "bands": written.descriptions == layer.bands,
        "palette": (layer.palette or {}).items() <= palette.items(),
        "CRS": bool(place.get("crs")) == bool(written.crs or written.gcps[1]),
        "transform": transform is None or np.allclose(transform, written.transform, 1e-9, 0),
        "tags": tags.items() <= written.tags().items(),
    }
    for what, equal in same.items():
        if not equal:
            raise OSError(f"its {what} read back differently")


@contextmanager
def _os_errors() -> Iterator[None]:
    """Turn errors of rasterio and GDAL into OSError."""
    try:
        yield
    except (RasterioError, CPLE_BaseError) as fault:
        raise OSError(" ".join(str(fault.__cause__ or fault).split())) from fault
