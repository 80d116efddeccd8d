"""Runs the fault matrix with its slow cells, and prints what came of it into docs/RELIABILITY.md.

    python tests/print_matrix.py

If a cell breaks an invariant, it is named and nothing is printed. This takes some minutes.
"""

from __future__ import annotations

import os
import platform
import sys
import warnings
from collections.abc import Iterable
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

import numpy as np
import rasterio
from faults import models, pairs, processes, rasters
from faults.cell import Cell, outcome_of
from faults.workplace import Bench
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from support import SHARED, write_raster, write_rgbd_model

FILE = Path(__file__).parents[1] / "docs" / "RELIABILITY.md"
PACKAGES = ("mfnet", "onnxruntime", "rasterio", "numpy", "torch", "onnx")
ORDER = "RPMX"
CELLS: tuple[Cell, ...] = tuple(
    sorted(
        (*rasters.CELLS, *pairs.CELLS, *models.CELLS, *processes.CELLS),
        key=lambda cell: (ORDER.index(cell.fault[0]), int(cell.fault[1:])),
    )
)
GEOTIFFS = {
    "ok": "sound, of many kinds: bands, number types, compressions, layouts",
    "with_sidecar": "sound, with overviews in a file beside",
    "broken": "damaged, cut short, or made to crash a reader",
}
LARGEST = 1 << 26  # pixels of a DSM; of a larger image it has another size


def described(cell: Cell) -> tuple[str, ...]:
    """Return the part of a row that is known before the run."""
    code = str(cell.code) if cell.code >= 0 else f"signal {-cell.code}"
    return cell.fault, cell.what, cell.result, code


def table(head: str, rows: Iterable[Iterable[str]]) -> str:
    """Return Markdown; columns after a double bar in `head` hold numbers."""
    words, numbers = (part.split("|") for part in head.split("||"))
    lines = [[*words, *numbers], ["---"] * len(words) + ["---:"] * len(numbers), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def rows_in(text: str) -> list[tuple[str, ...]]:
    """Return the rows of the table in a document, without what was measured."""
    part = text.partition("<!-- matrix -->\n")[2].partition("<!-- end of matrix -->")[0]
    return [tuple(line[2:-2].split(" | ")[:4]) for line in part.splitlines()[2:]]


def with_part(text: str, name: str, part: str) -> str:
    """Replace a generated part of a document."""
    begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
    before, rest = text.split(begin)
    return f"{before}{begin}{part}\n{end}{rest.split(end)[1]}"


def geotiff_code(bench: Bench, path: Path) -> int:
    """Run an image of ../shared/data/geotiffs in 4 GiB and 10 s, and return the exit code."""
    place = bench.place()
    write_rgbd_model(place.model, window=64)
    shape, where = (8, 8), {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        try:
            with rasterio.open(path) as image:
                if image.width * image.height <= LARGEST:
                    shape, where = image.shape, {"crs": image.crs, "transform": image.transform}
        except RasterioError:
            pass
    ramp = np.linspace(0, 9, shape[0] * shape[1], dtype=np.float32).reshape(shape)
    dsm = write_raster(place.root / "dsm.tif", ramp, **where)
    place.source = path
    place.words += ["--dsm", str(dsm), "--stride", "64"]
    place.under(limits=(("RLIMIT_AS", 4 << 30),))
    ended = place.run()
    assert ended.code in (0, 4), ended.err
    assert ended.seconds < 10
    assert "Traceback" not in ended.err
    if ended.code:
        (error,) = ended.errors
        assert str(path) in error or str(dsm) in error
    return ended.code


def main() -> int:
    """Entry point; returns the exit code."""
    rows, broken, files = [], [], []
    with Bench() as bench:
        for cell in CELLS:
            try:
                ended = outcome_of(cell, bench)
                numbers = (f"{ended.seconds:.1f}", str(ended.memory >> 20))
                rows.append((*described(cell), *numbers))
            except AssertionError as error:
                broken.append(f"{cell.name}: {error}")
        for part, what in GEOTIFFS.items():
            paths = sorted((SHARED / "data" / "geotiffs" / part).glob("*.tif*"))
            codes = [geotiff_code(bench, path) for path in paths if path.suffix != ".ovr"]
            files.append((what, *(str(n) for n in (len(codes), codes.count(0), codes.count(4)))))
    if broken:
        print("\n".join(broken), file=sys.stderr)
        return 1
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    today = datetime.now(timezone.utc).date()
    run = (
        f"{len(rows)} cells, all as described, on {today} with Python {platform.python_version()}, "
        f"{packages}; Linux {platform.release()} on {os.cpu_count()} cores of {platform.machine()}."
    )
    text = with_part(FILE.read_text(), "run", run)
    head = "Fault| |What comes of it|Exit||s|MiB"
    text = with_part(text, "matrix", table(head, rows))
    text = with_part(text, "geotiffs", table("Files||Number|Segmented|Refused", files))
    FILE.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
