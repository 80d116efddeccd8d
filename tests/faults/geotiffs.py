"""The files of ../shared/data/geotiffs as images: how each run ends. What comes out is compared by
tests/runtime/test_geotiffs.py."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import rasterio
from faults.bench import Bench
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from support import SHARED, write_raster, write_rgbd_model

FOLDER = SHARED / "data" / "geotiffs"
PARTS = {
    "ok": "sound, of many kinds: bands, number types, compressions, layouts",
    "with_sidecar": "sound, with overviews in a file beside",
    "broken": "damaged, cut short, or made to crash a reader",
}
LARGEST = 1 << 26  # pixels a DSM is made for; any other is of another size


def outcomes(bench: Bench, part: str) -> list[int]:
    """Exit code of a run on each file of a folder; each in 4 GiB and 10 s."""
    return [_outcome(bench, path) for path in sorted((FOLDER / part).glob("*.tif*"))
            if path.suffix != ".ovr"]  # fmt: skip


def _outcome(bench: Bench, path: Path) -> int:
    place = bench.place("small")
    write_rgbd_model(place.model, window=64)
    shape, where = _grid(path)
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
        (said,) = ended.errors
        assert str(path) in said or str(dsm) in said
    return ended.code


def _grid(path: Path) -> tuple[tuple[int, int], dict[str, object]]:
    """Shape and place that a DSM must have; of 8 x 8 px where the file does not tell."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        try:
            with rasterio.open(path) as image:
                if image.width * image.height <= LARGEST:
                    return image.shape, {"crs": image.crs, "transform": image.transform}
        except RasterioError:
            pass
    return (8, 8), {}
