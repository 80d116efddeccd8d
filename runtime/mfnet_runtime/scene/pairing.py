"""Find the DSM of an image: by file names or by a table. Opens no raster."""

from __future__ import annotations

import csv
import re
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rasterio.drivers import raster_driver_extensions

from mfnet_runtime.errors import UsageError
from mfnet_runtime.network.stac import Pair
from mfnet_runtime.network.url import RasterPath, Url, raster_path
from mfnet_runtime.raster.limits import PLAIN_DRIVERS

SUFFIXES = (".tif", ".tiff", ".png", ".jpg", ".jpeg")  # of the drivers that follow no path
PREVIEWS = (".png", ".jpg", ".jpeg")  # beside another raster of the same stem
NO_HINT = (*SUFFIXES, ".xml")  # GDAL's sidecars are XML, and so is a format
SEPARATORS = ",;\t"  # of tables


@dataclass(frozen=True)
class NameRule:
    """Stems of images and of DSMs, as regular expressions; equal groups make a pair."""

    image: str
    dsm: str
    expected: str  # stem of a missing DSM, from the image's groups


# ISPRS names: Potsdam pads the numbers in the names of its DSMs only.
VAIHINGEN = NameRule(
    r"top_mosaic_09cm_area(\d+)", r"dsm_09cm_matching_area(\d+)", "dsm_09cm_matching_area{0}"
)
POTSDAM = NameRule(
    r"top_potsdam_0*(\d+)_0*(\d+)_(?:RGB|RGBIR|IRRG)",
    r"dsm_potsdam_0*(\d+)_0*(\d+)(?:_normalized_.+)?",
    "dsm_potsdam_{0:0>2}_{1:0>2}",
)
SIDE_BY_SIDE = NameRule(r"(.+?)(?<!_dsm)(?<!_ndsm)(?<!_label)", r"(.+)_n?dsm", "{0}_dsm")
TWO_FOLDERS = NameRule(r"(.+)", r"(.+?)(?:_n?dsm)?", "{0}")


def suffixes_of(drivers: Sequence[str]) -> tuple[str, ...]:
    """Return the suffixes of rasters: `SUFFIXES`, and those of further GDAL drivers."""
    if set(drivers) <= set(PLAIN_DRIVERS):
        return SUFFIXES
    known = raster_driver_extensions().items()
    return (*SUFFIXES, *(f".{suffix}" for suffix, driver in known if driver in drivers))


def driver_hint(folder: Path, stem: str | None = None) -> str:
    """Name the driver of a file of another format: a part of a message, possibly empty.

    Args:
        folder: Where to look.
        stem: Of the file; None for any.
    """
    known = raster_driver_extensions()
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        driver = known.get(path.suffix.lower().removeprefix("."))
        if driver and stem in (None, path.stem) and path.suffix.lower() not in NO_HINT:
            return f"; to read {path.name}, add --allow-driver {driver}"
    return ""


def rasters_by_stem(folder: Path, suffixes: Sequence[str] = SUFFIXES) -> dict[str, Path]:
    """Return the rasters of a folder, in the order of their names.

    Raises:
        UsageError: Two have the same stem, and none is a preview.
    """
    found: dict[str, Path] = {}
    for path in _rasters_in(folder, suffixes):
        if path.stem in found:
            raise UsageError(f"{path}: {found[path.stem].name} has the same stem; keep one of them")
        found[path.stem] = path
    return found


def images_by_stem(folder: Path, suffixes: Sequence[str] = SUFFIXES) -> dict[str, Path]:
    """Return the rasters of a folder, of which there must be one.

    Raises:
        UsageError: There is none, or two have the same stem.
    """
    images = rasters_by_stem(folder, suffixes)
    if not images:
        raise UsageError(f"{folder}: holds no rasters ({', '.join(suffixes)}){driver_hint(folder)}")
    return images


def pairs_from_folder(folder: Path, suffixes: Sequence[str] = SUFFIXES) -> dict[Path, Path]:
    """Pair images and DSMs of a folder, by ISPRS names (also in its sub-folders) or `NAME_dsm`.

    Returns:
        The DSM of each image, or the path where it was expected.

    Raises:
        UsageError: There are no pairs, or two candidates for one.
    """
    here = _rasters_in(folder, suffixes)
    children = sorted(child for child in folder.iterdir() if child.is_dir())
    all_files = here + [path for child in children for path in _rasters_in(child, suffixes)]
    for rule, files in ((VAIHINGEN, all_files), (POTSDAM, all_files), (SIDE_BY_SIDE, here)):
        pairs = _paired(rule, files, files, folder)
        if any(dsm in files for dsm in pairs.values()):
            return pairs
    raise UsageError(
        f"{folder}: has no folder image/ and no pairs by name; expected image/ and dsm/ holding "
        "files with equal stems, or NAME.tif with NAME_dsm.tif, or ISPRS names, or the folder of "
        f"the DSMs in --dsm{driver_hint(folder)}"
    )


def pairs_from_folders(
    images: Path, heights: RasterPath, suffixes: Sequence[str] = SUFFIXES
) -> dict[Path, Path]:
    """Pair images of one folder and DSMs of another, by equal stems or by ISPRS names.

    Returns:
        The DSM of each image, or the path where it was expected.

    Raises:
        UsageError: `heights` is no folder, or there are no pairs, or two candidates for one.
    """
    if isinstance(heights, Url) or not heights.is_dir():
        raise UsageError(f"{heights}: is no folder, but the images are in one, {images}")
    files, dsms = _rasters_in(images, suffixes), _rasters_in(heights, suffixes)
    for rule in (VAIHINGEN, POTSDAM, TWO_FOLDERS):
        pairs = _paired(rule, files, dsms, heights)
        if any(dsm in dsms for dsm in pairs.values()):
            return pairs
    raise UsageError(
        f"{heights}: holds no DSM of an image in {images}; expected equal stems, or ISPRS names"
        f"{driver_hint(heights)}"
    )


def require_name(name: str, taken: Container[str], where: str, remedy: str) -> None:
    """Refuse a scene's name that is no file name, or taken.

    Raises:
        UsageError: It is.
    """
    if not name or name.startswith(".") or re.search(r"[/\\]", name) or not name.isprintable():
        raise UsageError(f"{where}: name {name!r} cannot name an output file")
    if name in taken:
        raise UsageError(f"{where}: there is a scene named {name!r} above already; {remedy}")


def pairs_from_table(table: Path) -> list[Pair]:
    r"""Read a table with the columns image, dsm and optionally name, in UTF-8.

    Values are separated by commas, semicolons or tabs. Paths are relative to the table's folder,
    with `/` or `\`, or addresses on the network. The name defaults to the image's stem.

    Returns:
        Name, image, and DSM or None.

    Raises:
        UsageError: The table cannot be read, a column or value is missing, or a name is not unique
            or no file name.
    """
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            separator = max(SEPARATORS, key=first.count)
            file.seek(0)
            reader = csv.DictReader(file, skipinitialspace=True, strict=True, delimiter=separator)
            columns = [column.strip().lower() for column in reader.fieldnames or ()]
            reader.fieldnames = columns
            rows = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeError, csv.Error) as fault:
        raise UsageError(
            f"{table}: is not a table of pairs ({fault}); expected text in UTF-8 with a first line "
            "image,dsm"
        ) from fault
    if "image" not in columns:
        raise UsageError(
            f"{table}: has no column image; the first line is {first.strip()[:80]!r}, separated by "
            f"{separator!r}; expected image,dsm"
        )
    pairs: dict[str, Pair] = {}
    for line, row in rows:
        image, dsm, name = ((row.get(column) or "").strip() for column in ("image", "dsm", "name"))
        if not image:
            raise UsageError(f"{table}: line {line} names no image")
        paths = [_beside(table, path) for path in (image, dsm)]
        name = name or paths[0].stem
        where = f"{table}: line {line}"
        require_name(name, pairs, where, "give them different names in a column name")
        pairs[name] = (name, paths[0], paths[1] if dsm else None)
    if not pairs:
        raise UsageError(f"{table}: holds no pairs")
    return list(pairs.values())


def _beside(table: Path, written: str) -> RasterPath:
    """Return the path or address of a file named in a table, possibly as on Windows."""
    named = raster_path(written)
    if isinstance(named, Url):
        return named
    path = table.parent / written
    return path if path.exists() else table.parent / written.replace("\\", "/")


def _rasters_in(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    """Return the files that are rasters by their suffix, in the order of their names.

    Previews are left out: `a.jpg` beside `a.tif`.
    """
    named = [path for path in folder.iterdir() if path.suffix.lower() in suffixes]
    stems = {path.stem for path in named if path.suffix.lower() not in PREVIEWS}
    return sorted(
        path
        for path in named
        if not path.name.startswith(".")
        and (path.suffix.lower() not in PREVIEWS or path.stem not in stems)
    )


def _paired(
    rule: NameRule, images: Iterable[Path], heights: Iterable[Path], folder: Path
) -> dict[Path, Path]:
    """Return the images that a rule matches, each with its DSM or where it should be."""
    found = _by_groups(rule.image, images)
    dsms = _by_groups(rule.dsm, heights) if found else {}
    return {
        image: dsms.get(groups, folder / f"{rule.expected.format(*groups)}.tif")
        for groups, image in found.items()
    }


def _by_groups(pattern: str, paths: Iterable[Path]) -> dict[tuple[str, ...], Path]:
    found: dict[tuple[str, ...], Path] = {}
    for path in paths:
        match = re.fullmatch(pattern, path.stem, re.IGNORECASE)
        if match is None:
            continue
        if other := found.get(match.groups()):
            raise UsageError(
                f"{path}: and {other} belong to one scene by their names; keep one of them, give "
                "one folder of images and one of DSMs (--dsm), or name the pairs in a CSV file"
            )
        found[match.groups()] = path
    return found
