"""Which heights belong to which image: by their names, or by a table. Opens no raster."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mfnet_runtime.errors import UsageError

SUFFIXES = (".tif", ".tiff", ".png", ".jpg", ".jpeg")
COLUMNS = ("image", "dsm")  # of a table of pairs; `name` may be there too


@dataclass(frozen=True)
class NameRule:
    """Stems of images and of their heights; equal groups make a pair."""

    image: str  # regular expression
    dsm: str
    expected: str  # stem of the heights, of the image's groups

    def key(self, path: Path, pattern: str) -> tuple[str, ...] | None:
        """The groups of a file's stem; None where it does not match."""
        match = re.fullmatch(pattern, path.stem, re.IGNORECASE)
        return match.groups() if match else None


# As ISPRS names them: Potsdam's numbers are padded in the DSMs only.
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


@dataclass(frozen=True)
class Pair:
    """An image and its heights; either may turn out not to be there."""

    name: str
    image: Path
    dsm: Path | None  # None: a table names none


def rasters_in(folder: Path) -> list[Path]:
    """Files that are rasters by their suffix, in order of their names."""
    named = (path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    return sorted(path for path in named if not path.name.startswith("."))


def pairs_from_folder(folder: Path) -> list[Pair]:
    """Pairs by ISPRS names in a folder or in folders inside it, or `NAME.tif, NAME_dsm.tif`.

    A missing DSM is given with the path where it was looked for.

    Raises:
        UsageError: no pairs, or two candidates for one.
    """
    here = rasters_in(folder)
    inside = [
        path for child in sorted(folder.iterdir()) if child.is_dir() for path in rasters_in(child)
    ]
    for rule, files in ((VAIHINGEN, here + inside), (POTSDAM, here + inside), (SIDE_BY_SIDE, here)):
        pairs = _paired(rule, files, files, folder)
        if any(pair.dsm in files for pair in pairs):
            return pairs
    raise UsageError(
        f"{folder}: no folder image/ in it and no pairs by name; expected image/ and dsm/ holding "
        "files with equal stems, or NAME.tif with NAME_dsm.tif, or ISPRS names, or name the DSMs' "
        "folder with --dsm"
    )


def pairs_from_folders(images: Path, heights: Path) -> list[Pair]:
    """Pairs of two folders, by equal stems or by ISPRS names.

    Raises:
        UsageError: no pairs, or two candidates for one.
    """
    files, dsms = rasters_in(images), rasters_in(heights)
    for rule in (VAIHINGEN, POTSDAM, TWO_FOLDERS):
        pairs = _paired(rule, files, dsms, heights)
        if any(pair.dsm in dsms for pair in pairs):
            return pairs
    raise UsageError(
        f"{heights}: no DSM of an image in {images}; expected equal stems, or ISPRS names"
    )


def pairs_from_table(table: Path) -> list[Pair]:
    """Pairs of a CSV file with the columns image, dsm and, if need be, name.

    Paths count from the table's folder. Without a name, the image's stem is taken.

    Raises:
        UsageError: the table cannot be read, a column or value is missing, a name comes twice or
            is no file name.
    """
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, skipinitialspace=True, strict=True)
            columns = [column.strip() for column in reader.fieldnames or ()]
            reader.fieldnames = columns
            rows = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeError, csv.Error) as fault:
        raise UsageError(f"{table}: is not a table of pairs ({fault})") from fault
    if "image" not in columns:
        raise UsageError(f"{table}: has no column image; expected a first line image,dsm")
    pairs: dict[str, Pair] = {}
    for line, row in rows:
        image, dsm = ((row.get(column) or "").strip() for column in COLUMNS)
        if not image:
            raise UsageError(f"{table}: line {line} names no image")
        name = (row.get("name") or "").strip() or Path(image).stem
        if name.startswith(".") or re.search(r"[/\\]", name) or not name.isprintable():
            raise UsageError(f"{table}: line {line}: name {name!r} cannot name an output file")
        if name in pairs:
            raise UsageError(
                f"{table}: line {line}: there is a scene named {name!r} above already; give them "
                "names of their own in a column name"
            )
        folder = table.parent
        pairs[name] = Pair(name, folder / image, folder / dsm if dsm else None)
    if not pairs:
        raise UsageError(f"{table}: no pairs in it")
    return list(pairs.values())


def _paired(
    rule: NameRule, images: Iterable[Path], heights: Iterable[Path], folder: Path
) -> list[Pair]:
    """The images that a rule names, each with its DSM or where it should be."""
    found = _by_key(rule, rule.image, images)
    dsms = _by_key(rule, rule.dsm, heights) if found else {}
    return [
        Pair(image.stem, image, dsms.get(key, folder / f"{rule.expected.format(*key)}.tif"))
        for key, image in found.items()
    ]


def _by_key(rule: NameRule, pattern: str, paths: Iterable[Path]) -> dict[tuple[str, ...], Path]:
    found: dict[tuple[str, ...], Path] = {}
    for path in paths:
        key = rule.key(path, pattern)
        if key is None:
            continue
        if key in found:
            raise UsageError(
                f"{path}: and {found[key]} are of one scene by their names; keep one of them, give "
                "one folder of images and one of DSMs (--dsm), or name the pairs in a CSV file"
            )
        found[key] = path
    return found
