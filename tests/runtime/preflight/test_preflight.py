"""`mfnet-run --check`: what it says about a scene, and that a run then does as it said."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.enums import ColorInterp
from support import RGBD, SHARED, UTM, plan_facts, read, write_raster, write_rgbd_model, write_scene

from mfnet_runtime.backends.tensorrt.plan_file import sidecar_of
from mfnet_runtime.cli.main import main
from mfnet_runtime.contract import Contract, DsmRule, ImageRule
from mfnet_runtime.files import sha256_from_file
from mfnet_runtime.preflight.rasters import raster_info, storage, strips
from mfnet_runtime.preflight.scene import empty_windows
from mfnet_runtime.raster.limits import DEFAULT_LIMITS
from mfnet_runtime.run.workdir import WORK
from mfnet_runtime.tiling.grid import WindowGrid

Capture = pytest.CaptureFixture[str]


def shifted(columns: float) -> dict[str, Any]:
    """The place of a raster that many pixels to the east."""
    return {**UTM, "transform": UTM["transform"] @ Affine.translation(columns, 0)}


@dataclass
class Case:
    """A scene in `folder`, its model, and the options of a run."""

    folder: Path
    model: dict[str, Any] = field(default_factory=dict)
    words: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.scene = write_scene(self.folder / "scenes")
        self.image, self.dsm = self.scene.image, self.scene.dsm
        self.out = self.folder / "out"

    def pixels(self, change: Any, **profile: Any) -> None:
        """Write the image again, changed."""
        write_raster(self.image, np.asarray(change(read(self.image, None))), **{**UTM, **profile})

    def heights(self, change: Any, **profile: Any) -> None:
        """Write the DSM again, changed."""
        write_raster(self.dsm, np.asarray(change(read(self.dsm, None))), **{**UTM, **profile})

    def colours(self, *kinds: ColorInterp) -> None:
        with rasterio.open(self.image, "r+") as target:
            target.colorinterp = kinds

    def command(self) -> list[str]:
        path = write_rgbd_model(self.folder / "rgbd.onnx", **self.model)
        words = [path, self.folder / "scenes", "-o", self.out, *self.words]
        return [str(word) for word in words]

    def check(self, capsys: Capture) -> tuple[int, Any]:
        """Return exit code and JSON of `--check`."""
        code = main([*self.command(), "--check", "--json"])
        out, err = capsys.readouterr()
        assert err == ""
        return code, json.loads(out)

    def texts(self, capsys: Capture, *levels: str) -> list[str]:
        """Return the findings of these levels on the one scene."""
        _, summary = self.check(capsys)
        (scene,) = summary["scenes"]
        return [one["text"] for one in scene["findings"] if one["level"] in levels]

    def warnings(self, capsys: Capture) -> list[str]:
        """Return the warnings of `--check`, which a run gives as well."""
        _, summary = self.check(capsys)
        (scene,) = summary["scenes"]
        found = [one for one in scene["findings"] if one["level"] == "warning"]
        assert main([*self.command(), "--json"]) == 0
        out, err = capsys.readouterr()
        (row,) = json.loads(out)["scenes"]
        assert row["warnings"] == [one["text"] for one in found if one["about"] != "run"]
        assert all(f"warning: {text}" in err for text in row["warnings"])
        shutil.rmtree(self.out)
        return [one["text"] for one in found]

    def warning(self, capsys: Capture) -> str:
        (text,) = self.warnings(capsys)
        return text


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path)


# --- what is refused -----------------------------------------------------------------------------


def _damaged(case: Case, part: str) -> None:
    """Zeros in a compressed block."""
    rng = np.random.default_rng(0)
    image, dsm = np.zeros((3, 300, 300), np.uint8), np.zeros((1, 300, 300), np.float32)
    if part == "image":
        image = rng.integers(0, 255, image.shape, np.uint8)
    else:
        dsm = rng.random(dsm.shape, np.float32)
    case.pixels(lambda _: image, compress="deflate")
    case.heights(lambda _: dsm, compress="deflate")
    path = getattr(case, part)
    data = bytearray(path.read_bytes())
    data[-90_000:-80_000] = bytes(10_000)
    path.write_bytes(data)


def _sixteen_bits(case: Case) -> None:
    case.pixels(lambda pixels: pixels.astype(np.uint16) * 16)


def _one_bright_pixel(case: Case) -> None:
    def change(pixels: Any) -> Any:
        wide = pixels.astype(np.uint16)
        wide[1, 39, 47] = 256
        return wide

    case.pixels(change)


def _four_bands(case: Case) -> None:
    case.pixels(lambda pixels: np.concatenate([pixels, pixels[:1]]), photometric="minisblack")


def _palette(case: Case) -> None:
    case.pixels(lambda pixels: pixels[:1])
    with rasterio.open(case.image, "r+") as target:
        target.write_colormap(1, {1: (1, 2, 3)})
    case.words += ["--bands", "1,1,1"]


def _no_valid_pixel_for_percentiles(case: Case) -> None:
    case.pixels(lambda pixels: np.full(pixels.shape, np.nan, np.float32))
    case.words += ["--image-percentiles", 2, 98]


def _long_name(case: Case) -> None:
    for path in (case.image, case.dsm):
        path.rename(path.with_stem("n" * 245))


def _polygons_without_an_area(case: Case) -> None:
    for change in (case.pixels, case.heights):
        change(lambda array: array, crs=None)
    case.words += ["--vectors", "gpkg", "--min-area", 5]


def _elsewhere_aligned(case: Case) -> None:
    case.heights(lambda heights: heights, **shifted(5000))
    case.words.append("--align")


def words(*more: Any) -> Any:
    return lambda case: case.words.extend(more)


def heights(change: Any = lambda array: array, **profile: Any) -> Any:
    return lambda case: case.heights(change, **profile)


REFUSED: dict[str, Any] = {
    "polygons without an area": _polygons_without_an_area,
    "a name too long": _long_name,
    "no DSM": lambda case: case.dsm.unlink(),
    "no raster": lambda case: case.image.write_text("no raster"),
    "damaged image": lambda case: _damaged(case, "image"),
    "damaged DSM": lambda case: _damaged(case, "dsm"),
    "16 bits": _sixteen_bits,
    "one bright pixel": _one_bright_pixel,
    "negative values": lambda case: case.pixels(lambda pixels: pixels.astype(np.int16) - 5),
    "four bands": _four_bands,
    "a DSM of two bands": heights(lambda array: np.concatenate([array] * 2)),
    "palette": _palette,
    "no percentiles": _no_valid_pixel_for_percentiles,
    "no such band": words("--bands", "1,2,9"),
    "no such DSM band": words("--dsm-band", 2),
    "another size": heights(lambda array: array[:, :30]),
    "half a pixel off": heights(**shifted(0.5)),
    "another CRS": heights(crs="EPSG:32633"),
    "elsewhere": heights(**shifted(5000)),
    "elsewhere, aligned": _elsewhere_aligned,
    "area elsewhere": words("--bbox", 0, 0, 1, 1),
    "folder of inputs": lambda case: setattr(case, "out", case.image.parent),
    "a file for a folder": lambda case: case.out.write_text(""),
    "a folder for a file": lambda case: (case.out / "a.tif").mkdir(parents=True),
    "too little memory": words("--max-memory", "1M"),
    "no BF16": words("--backend", "onnxruntime", "--precision", "bf16"),
    "stride too large": words("--stride", 33),
}


@pytest.mark.parametrize("name", REFUSED)
def test_check_refuses_what_a_run_refuses(case: Case, capsys: Capture, name: str) -> None:
    """With the same text and exit code, and writes nothing."""
    REFUSED[name](case)
    before = {*case.folder.rglob("*"), case.folder / "rgbd.onnx"}
    code, summary = case.check(capsys)
    assert {*case.folder.rglob("*")} == before
    findings = [*summary["findings"], *summary["scenes"][0]["findings"]]
    texts = [one["text"] for one in findings if one["level"] == "refused"]
    assert code == main([*case.command(), "-q"])
    (error,) = re.findall(r"error: (.*)", capsys.readouterr().err)
    assert error in texts
    assert len(set(texts)) == len(texts)
    assert code in (2, 4)


def test_a_run_does_what_check_says(case: Case, capsys: Capture) -> None:
    code, summary = case.check(capsys)
    assert (code, summary["refused"]) == (0, 0)
    (scene,) = summary["scenes"]
    assert (scene["verdict"], scene["replaced"]) == ("ok", [])
    assert not case.out.exists()
    assert main([*case.command(), "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["scenes"]
    assert scene["windows"] == row["windows"]
    assert scene["classified"] * 40 * 48 == row["valid_pixels"]
    _, summary = case.check(capsys)
    assert summary["scenes"][0]["replaced"] == ["a.tif", "a.tif.aux.xml"]


def test_all_refusals_come_at_once(case: Case, capsys: Capture) -> None:
    """A run stops at the first of these; another scene is not concerned."""
    _four_bands(case)
    case.heights(lambda heights: np.concatenate([heights] * 2), **shifted(0.5))
    case.words += ["--bbox", 0, 0, 1, 1]
    refused = "\n".join(case.texts(capsys, "refused"))
    assert f"{case.image}: has 4 bands" in refused
    assert f"{case.dsm}: DSM has 2 bands" in refused
    assert "--bbox 0 0 1 1 does not touch it" in refused
    (note,) = case.texts(capsys, "note")
    assert note.startswith(f"{case.dsm}: lies up to 0.50 px off")
    case.words = []
    write_scene(case.folder / "scenes", "b")
    code, summary = case.check(capsys)
    assert code == 4
    assert [scene["verdict"] for scene in summary["scenes"]] == ["refused", "ok"]


# --- pixels --------------------------------------------------------------------------------------


def test_the_range_suggested_for_other_values_works(case: Case, capsys: Capture) -> None:
    _sixteen_bits(case)
    (note,) = case.texts(capsys, "note")
    found = re.search(r"--image-range ([\d.]+) ([\d.]+), or --image-percentiles 2 98", note)
    assert found is not None
    case.words = ["--image-range", *found.groups()]
    assert case.check(capsys)[0] == main(case.command()) == 0


@pytest.mark.parametrize("row", [0, 39])
@pytest.mark.parametrize("value", [-1, 256])
def test_one_wrong_pixel_is_found_wherever_it_is(
    case: Case, capsys: Capture, monkeypatch: pytest.MonkeyPatch, row: int, value: int
) -> None:
    monkeypatch.setattr("mfnet_runtime.raster.open.PIECE", 256)

    def change(pixels: Any) -> Any:
        wide = pixels.astype(np.int16)
        wide[2, row, 20] = value
        return wide

    case.pixels(change, tiled=True, blockxsize=16, blockysize=16)
    case.dsm.unlink()  # so that the scene is not opened as by a run
    _, refused = case.texts(capsys, "refused")
    assert f"pixel values reach {value}, the model expects 0 to 255" in refused


@pytest.mark.parametrize(
    ("top", "full_scale", "words", "text"),
    [
        (1.0, 255.0, [], "dark in the model's range, 0 to 255"),  # 0 to 1 for a model of 8 bits
        (10_000.0, 65_535.0, [], "dark in the model's range, 0 to 65535"),  # 16-bit reflectance
        (255.0, 255.0, ["--image-range", 0, 2550], "dark in the given range, 0 to 2550"),
        (255.0, 255.0, [], None),
    ],
)
def test_dark_images(
    case: Case, capsys: Capture, top: float, full_scale: float, words: list[Any], text: str | None
) -> None:
    case.model["image"], case.words = ImageRule(full_scale=full_scale), words
    case.pixels(lambda pixels: pixels.astype(np.float32) * (top / pixels.max()))
    warnings = case.warnings(capsys)
    assert len(warnings) == (text is not None)
    assert text is None or (text in warnings[0] and "use --image-range" in warnings[0])


@pytest.mark.parametrize(
    ("values", "text"),
    [((None, None, 7), "band 3 is 7 in every valid pixel"), ((90,) * 3, "all bands are 90")],
)
def test_flat_bands(case: Case, capsys: Capture, values: Any, text: str) -> None:
    def change(pixels: Any) -> Any:
        for band, value in zip(pixels, values, strict=True):
            band[:] = band if value is None else value
        return pixels

    case.pixels(change)
    assert text in case.warning(capsys)


def test_bands_by_other_names(case: Case, capsys: Capture) -> None:
    case.colours(ColorInterp.blue, ColorInterp.green, ColorInterp.red)
    remedy = "the file names its bands 1,2,3 blue, green, red; use --bands 3,2,1"
    assert remedy in case.warning(capsys)
    case.words += ["--bands", "3,2,1"]
    assert case.warnings(capsys) == []
    case.words, case.model["image"] = [], ImageRule(("nir", "red", "green"))
    warning = case.warning(capsys)
    assert "the model expects nir, red, green" in warning
    assert "--bands" in warning


def test_margins_that_count_as_data(case: Case, capsys: Capture) -> None:
    def frame(pixels: Any) -> Any:
        pixels[:, :4] = 255
        return pixels

    case.pixels(frame)
    (note,) = case.texts(capsys, "note")
    assert note.startswith("10.0% of the pixels are plain white")
    assert "--nodata-image 255" in note
    case.words = ["--nodata-image", 255]
    assert case.texts(capsys, "note") == []
    _, summary = case.check(capsys)
    assert summary["scenes"][0]["image"]["masked"] == {"--nodata-image 255": 0.1}


def test_nodata_by_cause(case: Case, capsys: Capture) -> None:
    def make_holes(pixels: Any) -> Any:
        broken = pixels.astype(np.float32)
        broken[:, 0], broken[0, 1, :24], broken[:, 2] = -9999, np.nan, 77
        return broken

    case.pixels(make_holes, nodata=-9999)
    case.words = ["--nodata-image", 77]
    _, summary = case.check(capsys)
    (scene,) = summary["scenes"]
    shares = {"NaN or infinite": 24, "nodata value -9999": 48, "--nodata-image 77": 48}
    assert scene["image"]["masked"] == {
        name: pytest.approx(pixels / 1920, abs=1e-6) for name, pixels in shares.items()
    }
    assert scene["classified"] == pytest.approx(1 - 120 / 1920, abs=1e-6)


def test_infrared_flagged_as_alpha(case: Case, capsys: Capture) -> None:
    infrared = np.random.default_rng(0).integers(1, 255, (1, 40, 48), np.uint8)
    case.pixels(lambda pixels: np.concatenate([pixels, infrared]))
    case.colours(ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha)
    assert "band 4 is flagged as alpha" in case.warning(capsys)
    case.words = ["--ignore-alpha"]
    assert case.warnings(capsys) == []


def test_an_image_without_a_valid_pixel(case: Case, capsys: Capture) -> None:
    case.pixels(np.zeros_like, nodata=0)
    assert "there is no valid pixel (nodata value 0 100.0%)" in case.warning(capsys)
    _, summary = case.check(capsys)
    (scene,) = summary["scenes"]
    assert (scene["classified"], scene["skipped_windows"]) == (0, scene["windows"])


# --- heights -------------------------------------------------------------------------------------


def _spikes(heights: Any) -> Any:
    heights[0, :2] = -999
    return heights


@pytest.mark.parametrize(
    ("change", "text", "remedy"),
    [
        (_spikes, "5.00% of the pixels are exactly -999, and the next height is 100", "--nodata-d"),
        (lambda heights: np.maximum(heights - 100.5, 0), None, None),  # above the ground
        (lambda heights: np.full_like(heights, 7), "every height is 7", "the right DSM"),
        (lambda heights: np.full_like(heights, np.nan), "there is no valid height", "gdalinfo"),
    ],
)
def test_heights_that_say_little(
    case: Case, capsys: Capture, change: Any, text: str | None, remedy: str | None
) -> None:
    case.heights(lambda heights: change(heights).astype(np.float32))
    warnings = case.warnings(capsys)
    assert len(warnings) == (text is not None)
    if text is not None and remedy is not None:
        assert text in warnings[0]
        assert remedy in warnings[0]


def test_the_suggested_range_mends_an_outlier_and_a_fixed_range(
    case: Case, capsys: Capture
) -> None:
    sound = read(case.dsm, None)

    def change(heights: Any) -> Any:
        heights[0, 0, 0] = 9000
        return heights

    case.heights(change)
    for array, rule, text in (
        (change(sound.copy()), DsmRule(), r"use 1% of the network's range, 100[.\d]* \.\. 9000"),
        (sound, DsmRule("range", 0.0, 50.0), r"exceed the range 0 \.\. 50 that becomes 0 \.\. 1"),
    ):
        case.heights(lambda _, array=array: array)
        case.model["dsm"], case.words = rule, []
        warning = case.warning(capsys)
        assert re.search(text, warning)
        remedy = re.search(r"--dsm-range (\d+) (\d+)$", warning)
        assert remedy is not None
        assert int(remedy[1]) == 100
        case.words = ["--dsm-range", *remedy.groups()]
        assert case.warnings(capsys) == []


def test_impossible_heights(case: Case, capsys: Capture) -> None:
    def change(heights: Any) -> Any:
        heights[0, 0], heights[0, 1, :12] = -32767, np.inf
        return heights

    case.heights(change)
    (note,) = case.texts(capsys, "note")
    assert note.startswith("2.50% of the pixels are no possible heights")
    _, summary = case.check(capsys)
    masked = {"NaN or infinite": 0.00625, "not between -1000 and 1e+06": 0.025}
    assert summary["scenes"][0]["dsm"]["masked"] == masked


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
    case.pixels(
        lambda pixels: np.concatenate([pixels.astype(np.float32) / 255, read(case.dsm, None)])
    )
    shutil.rmtree(case.dsm.parent)
    case.words = ["--dsm-band", 4]
    colours = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)
    case.colours(*colours, ColorInterp.alpha)  # as GDAL does by itself
    assert "dark in the model's range" in case.warning(capsys)
    _, summary = case.check(capsys)
    (scene,) = summary["scenes"]
    assert scene["dsm"]["low"] >= 100
    assert scene["image"]["high"] == [pytest.approx(200 / 255)] * 3


# --- grids ---------------------------------------------------------------------------------------


def test_what_align_would_do(case: Case, capsys: Capture) -> None:
    case.heights(lambda heights: heights, **shifted(0.5))
    (note,) = case.texts(capsys, "note")
    assert re.match(r"with --align: DSM of \d+ x \d+ px of 0.5 metre \(EPSG:32632\) aligned", note)
    case.words = ["--align"]
    assert case.check(capsys)[0] == main(case.command()) == 0


def test_a_dsm_of_half_the_image(case: Case, capsys: Capture) -> None:
    case.heights(lambda heights: heights, **shifted(24))
    case.words = ["--align"]
    assert case.warning(capsys).startswith("the DSM covers 50.0% of the image")


def test_image_and_dsm_without_common_data(case: Case, capsys: Capture) -> None:
    upper = np.arange(40)[:, None] < 20
    case.pixels(lambda pixels: np.where(upper, pixels, 0), nodata=0)
    case.heights(lambda heights: np.where(upper, np.float32(-9999), heights), nodata=-9999)
    assert "nothing would get a class" in case.warning(capsys)


def test_an_image_that_is_not_georeferenced(case: Case, capsys: Capture) -> None:
    write_raster(case.image, read(case.image, None))
    (note,) = case.texts(capsys, "note")
    assert "is not georeferenced" in note
    assert "matched by size alone" in case.warning(capsys)


def test_rows_stored_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    array = np.zeros((3, 64, 80), np.uint8)
    monkeypatch.setattr("mfnet_runtime.preflight.rasters.LARGE_BLOCK", 32 * 80 * 3 - 1)
    for tiled, count in ((False, 2), (True, 0)):
        profile = {"blockysize": 32, "tiled": tiled, **({"blockxsize": 32} if tiled else {})}
        path = write_raster(tmp_path / f"{tiled}.tif", array, **profile, **UTM)
        info = raster_info(path, DEFAULT_LIMITS)
        texts = [text for _, text in (*strips(info, 2), *storage(info))]
        assert len(texts) == count
        assert all(": is stored in " in text for text in texts)
        assert not list(strips(info, 1))


# --- the model, and the run as a whole -----------------------------------------------------------


def test_a_model_that_cannot_run_ends_as_a_run_does(case: Case, capsys: Capture) -> None:
    command = case.command()
    (case.folder / "rgbd.onnx").write_bytes(b"no model")
    assert main([*command, "--check"]) == main(command) == 3
    one, two = capsys.readouterr().err.splitlines()
    assert one == two


def test_a_plan_is_compared_with_its_digest_before_it_is_opened(
    case: Case, capsys: Capture
) -> None:
    plan = case.folder / "rgbd.plan"
    plan.write_bytes(b"not opened here")
    facts = plan_facts(Contract(32, RGBD), plan_sha256=sha256_from_file(plan))
    sidecar_of(plan).write_text(facts.to_json())
    command = [str(plan), str(case.folder / "scenes"), "--check", "--json"]
    main(command)
    texts = [one["text"] for one in json.loads(capsys.readouterr().out)["findings"]]
    assert not any("SHA-256" in text for text in texts)
    plan.write_bytes(b"changed")
    assert main(command) in (2, 3)
    summary = json.loads(capsys.readouterr().out)
    assert any("its SHA-256 is" in one["text"] for one in summary["findings"])
    assert summary["scenes"][0]["verdict"] == "ok"


def test_the_output_folder(case: Case, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    (case.out / WORK).mkdir(parents=True)
    usage = shutil.disk_usage(case.folder)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=100))
    code, summary = case.check(capsys)
    assert code == 0
    assert [one["level"] for one in summary["findings"]] == ["warning"] * 2
    texts = [one["text"] for one in summary["findings"]]
    assert "an unfinished run is there; use --resume" in texts[0]
    assert "free some space" in texts[1]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written(case: Case, capsys: Capture) -> None:
    case.folder.chmod(0o500)
    try:
        assert main([*case.command(), "--check"]) == 5
    finally:
        case.folder.chmod(0o700)


def test_only_a_run_needs_an_output_folder(case: Case, capsys: Capture) -> None:
    words = [word for word in case.command() if word not in ("-o", str(case.out))]
    assert main([*words, "--check"]) == 0
    assert main(words) == 2
    assert "-o says where the outputs go" in capsys.readouterr().err


# --- text ----------------------------------------------------------------------------------------


@pytest.mark.skipif(not (SHARED / "data").is_dir(), reason="../shared/data is not here")
def test_lines_fit_a_terminal(tmp_path: Path, capsys: Capture) -> None:
    autzen = SHARED / "data" / "autzen"
    model = write_rgbd_model(tmp_path / "rgbd.onnx", 256)
    words = [model, autzen / "image_1ft_jpeg.tif", "--dsm", autzen / "dsm" / "west.tif", "--check"]
    assert main([str(word) for word in words]) == 4
    out = capsys.readouterr().out
    assert all(len(click.unstyle(line)) <= 100 for line in out.splitlines())
    for part in (
        "image_1ft_jpeg: refused",
        "  size      3248 x 4385 px                               1104 x 2192 px",
        "  pixel     1 foot (0.3048 m)                            2 foot (0.6096 m)",
        "nodata value -9999 2.11%",
        "with --align: DSM of ",
        "map coordinates are in foot, so heights may be too",
        "1 scene: 0 ok, 0 with warnings, 1 would be refused. Nothing was written.",
    ):
        assert part in out


def test_a_closed_pipe_is_fine(case: Case) -> None:
    """As in `mfnet-run ... --check | head -1`."""
    code = f"import sys; sys.path[:] = {sys.path!r}; from mfnet_runtime.cli.main import main; "
    words = [sys.executable, "-c", code + f"sys.exit(main({[*case.command(), '--check']!r}))"]
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(words, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


def test_quiet_shows_only_warnings_and_refusals(case: Case, capsys: Capture) -> None:
    write_scene(case.folder / "scenes", "b")
    case.pixels(lambda pixels: np.full_like(pixels, 9))
    assert main([*case.command(), "--check", "-q"]) == 0
    out = capsys.readouterr().out
    assert "a: warning" in out
    assert "b: " not in out
    assert "  size" not in out
    assert "2 scenes: 1 ok, 1 with warnings, 0 would be refused" in out


@pytest.mark.parametrize(("window", "stride"), [(64, 32), (64, 50), (32, 32), (64, 64)])
def test_empty_windows_are_counted(window: int, stride: int) -> None:
    rng = np.random.default_rng(stride)
    wanted = np.zeros((200, 333), np.bool_)
    for top, left in rng.integers(0, 200, (4, 2)):
        wanted[top : top + 9, left : left + 9] = True
    grid = WindowGrid(200, 333, window, stride)
    empty = [
        not wanted[row.start : row.start + window, column.start : column.start + window].any()
        for row, column in grid
    ]
    assert empty_windows(wanted, grid) == sum(empty) > 0
