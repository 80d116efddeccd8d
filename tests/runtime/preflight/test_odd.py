"""What `--check` finds odd about a scene; a run gives the same warnings."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from preflight_case import (
    Capture,
    Case,
    all_of,
    heights,
    pixels,
    shifted,
    sixteen_bits,
    words,
)
from rasterio.enums import ColorInterp
from support import read, write_raster

from mfnet_runtime.cli.main import main
from mfnet_runtime.contract import DsmRule, ImageRule


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path)


@dataclass(frozen=True)
class Odd:
    """What is odd about a scene."""

    plant: Any  # changes the case
    level: str
    text: str  # regular expression
    mend: str | None = None  # options that help, with groups of `text`


def model(**changes: Any) -> Any:
    return lambda case: case.model.update(changes)


def colours(*names: str) -> Any:
    return lambda case: case.colours(*(ColorInterp[name] for name in names))


def described(*texts: str) -> Any:
    def plant(case: Case) -> None:
        with rasterio.open(case.image, "r+") as target:
            target.descriptions = texts

    return plant


def jpeg(**profile: Any) -> Any:
    """A black margin across blocks of 8 px, compressed by JPEG."""
    return pixels(
        lambda array: np.where(np.arange(48) < 21, 0, array + 60).astype(np.uint8),
        **{"compress": "JPEG", "jpeg_quality": 75, "photometric": "YCBCR", **profile},
    )


def scaled(top: float) -> Any:
    return pixels(lambda array: array.astype(np.float32) * (top / array.max()))


def filled(value: float, rows: slice, columns: slice = slice(None), band: Any = slice(None)) -> Any:
    def change(array: Any) -> Any:
        array[band, rows, columns] = value
        return array

    return change


RANGE = r"use (--image-range \S+ \S+), or --image-percentiles 2 98"
DSM_RANGE = r"use (--dsm-range 100 \d+)$"
INFRARED = np.random.default_rng(0).integers(1, 255, (1, 40, 48), np.uint8)
EVERY, UPPER, NAN = slice(None), slice(20), float("nan")
NOT_VALID = "there is no valid pixel (nodata value 0 100.0%)"
ODD = {
    "0 to 1 for a model of 8 bits": Odd(
        scaled(1), "warning", f"dark in the model's range, 0 to 255; .*{RANGE}", r"\1"
    ),
    "reflectance for a model of 16 bits": Odd(
        all_of(scaled(10_000), model(image=ImageRule(full_scale=65_535.0))),
        "warning",
        f"dark in the model's range, 0 to 65535; .*{RANGE}",
        "--image-percentiles 2 98",
    ),
    "a range too wide": Odd(
        words("--image-range", 0, 2550), "warning", "dark in the given range, 0 to 2550"
    ),
    "16 bits": Odd(sixteen_bits, "note", f"pixel values lie in 0 .. 3200; {RANGE}", r"\1"),
    "a flat band": Odd(pixels(filled(7, EVERY, band=2)), "warning", "band 3 is 7 in every valid"),
    "flat bands": Odd(pixels(filled(90, EVERY)), "warning", "all bands are 90 in every valid"),
    "bands in another order": Odd(
        colours("blue", "green", "red"),
        "warning",
        r"the file names its bands 1,2,3 blue, green, red; use (--bands 3,2,1)",
        r"\1",
    ),
    "bands of another kind": Odd(
        all_of(colours("red", "green", "blue"), model(image=ImageRule(("nir", "red", "green")))),
        "warning",
        "the model expects nir, red, green, .* with --bands",
    ),
    "infrared by its description": Odd(
        all_of(described("NIR", "Red", "B03"), model(image=ImageRule())),
        "warning",
        "the model expects red, green, blue, but the file names its bands 1,2,3 near infrared,",
    ),
    "the same bands by another name": Odd(
        all_of(
            described("NIR", "B4", "Green"),
            model(image=ImageRule(("nir", "red", "green"))),
        ),
        "warning",
        "",
    ),
    "pixels larger than the model's": Odd(
        model(pixel_size=0.33),
        "warning",
        r"pixels are 0.5 m on the ground, the model was trained on 0.33 m, .*(--resample-to model)",
        r"\1",
    ),
    "pixels smaller than the model's": Odd(
        model(pixel_size=0.76), "warning", "pixels are 0.5 m on the ground"
    ),
    "pixels a little larger": Odd(model(pixel_size=0.34), "warning", ""),
    "pixels a little smaller": Odd(model(pixel_size=0.74), "warning", ""),
    "a margin": Odd(
        pixels(filled(255, slice(4))),
        "note",
        "^10.0% of the pixels are plain white .*use (--nodata-image 255)",
        r"\1",
    ),
    "infrared flagged as alpha": Odd(
        all_of(
            pixels(lambda array: np.concatenate([array, INFRARED])),
            colours("red", "green", "blue", "alpha"),
        ),
        "warning",
        "band 4 is flagged as alpha .* use (--ignore-alpha)",
        r"\1",
    ),
    "infrared of two values flagged as alpha": Odd(
        all_of(
            pixels(lambda array: np.concatenate([array, np.where(INFRARED > 60, 180, 0)])),
            colours("red", "green", "blue", "alpha"),
        ),
        "warning",
        "band 4 is flagged as alpha .* use (--ignore-alpha)",
        r"\1",
    ),
    "a black margin that JPEG has changed": Odd(
        jpeg(nodata=0),
        "warning",
        "of the pixels beside nodata are within 15 of its value.* use (--nodata-tolerance 15)",
        r"\1",
    ),
    "the same, undeclared": Odd(
        jpeg(),
        "note",
        "are plain black .* use (--nodata-image 0) (--nodata-tolerance 15)",
        r"\1 \2",
    ),
    "no pixel": Odd(pixels(np.zeros_like, nodata=0), "warning", re.escape(NOT_VALID)),
    "undeclared nodata": Odd(
        heights(filled(-999, slice(2))),
        "warning",
        "5.00% of the pixels are exactly -999, and the next height is 100.*(--nodata-dsm -999)",
        r"\1",
    ),
    "one outlier": Odd(
        heights(filled(9000, slice(1), slice(1))),
        "warning",
        rf"use 1% of the network's range, 100[.\d]* \.\. 9000; {DSM_RANGE}",
        r"\1",
    ),
    "heights outside of a fixed range": Odd(
        model(dsm=DsmRule("range", 0.0, 50.0)),
        "warning",
        rf"exceed the range 0 \.\. 50 that becomes 0 \.\. 1, .*{DSM_RANGE}",
        r"\1",
    ),
    "a constant DSM": Odd(
        heights(filled(7, EVERY)), "warning", "every height is 7, .* the right DSM"
    ),
    "no height": Odd(heights(filled(NAN, EVERY)), "warning", "there is no valid height.*gdalinfo"),
    "impossible heights": Odd(
        heights(filled(-32767, slice(1))), "note", "^2.50% of the pixels are no possible heights"
    ),
    "half a pixel off": Odd(
        heights(**shifted(0.5)),
        "note",
        r"^with --align: DSM of \d+ x \d+ px of 0.5 metre \(EPSG:32632\) aligned",
        "--align",
    ),
    "a DSM of half the image": Odd(
        all_of(heights(**shifted(24)), words("--align")),
        "warning",
        "^the DSM covers 50.0% of the image",
    ),
    "no common data": Odd(
        all_of(
            pixels(filled(0, UPPER), nodata=0),
            heights(filled(-9999, slice(20, None)), nodata=-9999),
        ),
        "warning",
        "nothing would get a class",
    ),
    "an image without georeferencing": Odd(
        lambda case: write_raster(case.image, read(case.image, None)),
        "warning",
        "matched by size alone",
    ),
    "outputs without georeferencing": Odd(
        lambda case: write_raster(case.image, read(case.image, None)),
        "note",
        "is not georeferenced",
    ),
    "percentiles of nearly equal heights": Odd(
        all_of(heights(filled(7, slice(39))), model(dsm=DsmRule("scene_percentile", 2.0, 90.0))),
        "warning",
        "97.50% of the pixels are exactly 7",
    ),
    "nothing": Odd(scaled(255), "warning", ""),
    "heights above the ground": Odd(
        heights(lambda array: np.maximum(array - np.float32(100.5), 0)), "warning", ""
    ),
}


@pytest.mark.parametrize("name", ODD)
def test_what_is_odd_and_what_mends_it(case: Case, capsys: Capture, name: str) -> None:
    odd = ODD[name]
    odd.plant(case)

    def said() -> list[str]:
        return case.warnings(capsys) if odd.level == "warning" else case.texts(capsys, odd.level)

    found = said()
    if not odd.text:
        assert found == []
        return
    (text,) = found
    match = re.search(odd.text, text)
    assert match, text
    if odd.mend:
        case.words += match.expand(odd.mend).split()
        assert said() == []
        assert main(case.command()) == 0


def test_pixels_of_unknown_size(case: Case, capsys: Capture) -> None:
    case.pixels(lambda array: array, crs=None)
    case.model["pixel_size"] = 0.3
    assert "the model was trained on 0.3 m" in "; ".join(case.texts(capsys, "note"))
    assert case.warnings(capsys) == []


def test_nodata_by_cause(case: Case, capsys: Capture) -> None:
    def make_holes(pixels: Any) -> Any:
        broken = pixels.astype(np.float32)
        broken[:, 0], broken[0, 1, :24], broken[:, 2] = -9999, np.nan, 77
        return broken

    case.pixels(make_holes, nodata=-9999)
    case.heights(filled(-32767, slice(1)))
    case.words = ["--nodata-image", 77]
    _, summary = case.check(capsys)
    (scene,) = summary["scenes"]
    shares = {"NaN or infinite": 24, "nodata value -9999": 48, "--nodata-image 77": 48}
    assert scene["image"]["masked"] == {
        name: pytest.approx(pixels / 1920, abs=1e-6) for name, pixels in shares.items()
    }
    assert scene["dsm"]["masked"] == {"not between -1000 and 1e+06": 0.025}
    assert scene["classified"] == pytest.approx(1 - 120 / 1920, abs=1e-6)
    case.pixels(np.zeros_like, nodata=0)
    _, summary = case.check(capsys)
    (scene,) = summary["scenes"]
    assert (scene["classified"], scene["skipped_windows"]) == (0, scene["windows"])


@pytest.mark.parametrize(
    ("factor", "unit", "text"),
    [
        (1.0, None, "the unit of the heights is not stated"),
        (3.28084, "ft", "heights are in ft, as the file states"),
        (100.0, None, "heights seem to be in centimetres or less"),
        (100.0, "m", "heights seem to be in centimetres or less"),
        (0.001, None, "heights seem to be shares"),
    ],
)
def test_units_matter_if_the_range_is_fixed(
    case: Case, capsys: Capture, factor: float, unit: str | None, text: str
) -> None:
    case.heights(lambda heights: heights * np.float32(factor))
    with rasterio.open(case.dsm, "r+") as target:
        target.units = (unit,)
    assert any(text in found for found in case.texts(capsys, "ok", "note"))
    assert case.warnings(capsys) == []
    case.model["dsm"] = DsmRule("range", 0.0, 20_000.0)
    (found,) = [found for found in case.texts(capsys, "ok", "warning") if text in found]
    assert ("is in metres" in found) == (factor != 1.0)


def test_heights_in_a_band_of_the_image(case: Case, capsys: Capture) -> None:
    """A warning about the colours is not about the heights."""
    heights = read(case.dsm, None)
    case.pixels(lambda pixels: np.concatenate([pixels.astype(np.float32) / 255, heights]))
    shutil.rmtree(case.dsm.parent)
    case.words = ["--dsm-band", 4]
    colours("red", "green", "blue", "alpha")(case)  # as GDAL does by itself
    (warning,) = case.warnings(capsys)
    assert "dark in the model's range" in warning
    _, summary = case.check(capsys)
    (scene,) = summary["scenes"]
    assert scene["dsm"]["low"] >= 100
    assert scene["image"]["high"] == [pytest.approx(200 / 255)] * 3
