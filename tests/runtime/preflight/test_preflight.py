"""`mfnet-run --check`: what it says of a scene, and that a run then does as it was told."""

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
from mfnet_runtime.preflight.findings import Findings
from mfnet_runtime.preflight.raster_info import facts_from_file
from mfnet_runtime.preflight.statistics import CELL, Counts, Coverage, End, Spread, sample_of
from mfnet_runtime.preflight.storage import examine_blocks, examine_storage
from mfnet_runtime.raster.limits import DEFAULT_LIMITS
from mfnet_runtime.run.workdir import WORK
from mfnet_runtime.tiling.grid import WindowGrid

Capture = pytest.CaptureFixture[str]
FAR = {**UTM, "transform": UTM["transform"] @ Affine.translation(5000, 0)}
HALF = {**UTM, "transform": UTM["transform"] @ Affine.translation(0.5, 0)}
OTHER = {**UTM, "crs": "EPSG:32633"}


@dataclass
class Case:
    """A scene in `folder`, its model, and the words of a run."""

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

    def command(self) -> list[str]:
        path = self.folder / "rgbd.onnx"
        if not path.exists():
            write_rgbd_model(path, **self.model)
        words = [path, self.folder / "scenes", "-o", self.out, *self.words]
        return [str(word) for word in words]

    def checked(self, capsys: Capture) -> tuple[int, Any]:
        """Exit code and the JSON of `--check`."""
        code = main([*self.command(), "--check", "--json"])
        out, err = capsys.readouterr()
        assert err == ""
        return code, json.loads(out)

    def texts(self, capsys: Capture, *levels: str) -> list[str]:
        """Of the findings of these levels on the one scene."""
        _, summary = self.checked(capsys)
        (scene,) = summary["scenes"]
        return [one["text"] for one in scene["findings"] if one["level"] in levels]


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path)


def files_below(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


# --- a run does as it was told -------------------------------------------------------------------


def _lost_dsm(case: Case) -> None:
    case.dsm.unlink()


def _text(case: Case) -> None:
    case.image.write_text("no raster")


def _damaged_image(case: Case) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (3, 300, 300), np.uint8)
    case.pixels(lambda _: noise, compress="deflate")
    case.heights(lambda _: np.zeros((1, 300, 300), np.float32))
    data = bytearray(case.image.read_bytes())
    data[-90_000:-80_000] = bytes(10_000)
    case.image.write_bytes(data)


def _damaged_dsm(case: Case) -> None:
    noise = np.random.default_rng(0).random((1, 300, 300), np.float32)
    case.heights(lambda _: noise, compress="deflate")
    case.pixels(lambda _: np.zeros((3, 300, 300), np.uint8))
    data = bytearray(case.dsm.read_bytes())
    data[-90_000:-80_000] = bytes(10_000)
    case.dsm.write_bytes(data)


def _sixteen_bits(case: Case) -> None:
    case.pixels(lambda pixels: pixels.astype(np.uint16) * 16)


def _one_bright_pixel(case: Case) -> None:
    def change(pixels: Any) -> Any:
        wide = pixels.astype(np.uint16)
        wide[1, 39, 47] = 256
        return wide

    case.pixels(change)


def _negative(case: Case) -> None:
    case.pixels(lambda pixels: pixels.astype(np.int16) - 5)


def _four_bands(case: Case) -> None:
    case.pixels(lambda pixels: np.concatenate([pixels, pixels[:1]]), photometric="minisblack")


def _bands_of_heights(case: Case) -> None:
    case.heights(lambda heights: np.concatenate([heights] * 2))


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
    place = {"crs": None}
    case.pixels(lambda pixels: pixels, **place)
    case.heights(lambda heights: heights, **place)
    case.words += ["--vectors", "gpkg", "--min-area", 5]


REFUSED: dict[str, Any] = {
    "polygons without an area": _polygons_without_an_area,
    "a name too long": _long_name,
    "no DSM": _lost_dsm,
    "no raster": _text,
    "damaged image": _damaged_image,
    "damaged DSM": _damaged_dsm,
    "16 bits": _sixteen_bits,
    "one bright pixel": _one_bright_pixel,
    "negative values": _negative,
    "four bands": _four_bands,
    "a DSM of two bands": _bands_of_heights,
    "palette": _palette,
    "no percentiles": _no_valid_pixel_for_percentiles,
    "no such band": lambda case: case.words.extend(["--bands", "1,2,9"]),
    "no such DSM band": lambda case: case.words.extend(["--dsm-band", 2]),
    "another size": lambda case: case.heights(lambda heights: heights[:, :30]),
    "half a pixel off": lambda case: case.heights(lambda heights: heights, **HALF),
    "another CRS": lambda case: case.heights(lambda heights: heights, **OTHER),
    "elsewhere": lambda case: case.heights(lambda heights: heights, **FAR),
    "elsewhere, aligned": lambda case: (
        case.heights(lambda heights: heights, **FAR),
        case.words.append("--align"),
    ),
    "area elsewhere": lambda case: case.words.extend(["--bbox", 0, 0, 1, 1]),
    "folder of inputs": lambda case: setattr(case, "out", case.image.parent),
    "a file for a folder": lambda case: case.out.write_text(""),
    "a folder for a file": lambda case: (case.out / "a.tif").mkdir(parents=True),
    "too little memory": lambda case: case.words.extend(["--max-memory", "1M"]),
    "no BF16": lambda case: case.words.extend(["--backend", "onnxruntime", "--precision", "bf16"]),
    "stride too large": lambda case: case.words.extend(["--stride", 33]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_was_told(case: Case, capsys: Capture, name: str) -> None:
    """The same words and the same code, and nothing written."""
    REFUSED[name](case)
    before = files_below(case.folder) | {case.folder / "rgbd.onnx"}
    code, summary = case.checked(capsys)
    assert files_below(case.folder) == before
    findings = [*summary["findings"], *summary["scenes"][0]["findings"]]
    told = [one["text"] for one in findings if one["level"] == "refused"]
    assert code == main([*case.command(), "-q"])
    (said,) = re.findall(r"error: (.*)", capsys.readouterr().err)
    assert said in told
    assert len(set(told)) == len(told)
    assert code in (2, 4)


def test_what_is_not_refused_runs(case: Case, capsys: Capture) -> None:
    code, summary = case.checked(capsys)
    assert (code, summary["refused"]) == (0, 0)
    (scene,) = summary["scenes"]
    assert scene["verdict"] == "ok"
    assert not case.out.exists()
    assert main([*case.command(), "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["scenes"]
    assert scene["windows"] == row["windows"]
    assert scene["classified"] * 40 * 48 == row["valid_pixels"]
    assert scene["replaced"] == []
    _, summary = case.checked(capsys)
    assert summary["scenes"][0]["replaced"] == ["a.tif", "a.tif.aux.xml"]


def test_everything_is_told_at_once(case: Case, capsys: Capture) -> None:
    """A run gives up at the first of these."""
    case.pixels(lambda pixels: np.concatenate([pixels, pixels[:1]]), photometric="minisblack")
    case.heights(lambda heights: np.concatenate([heights] * 2), **HALF)
    case.words += ["--bbox", 0, 0, 1, 1]
    refused = "\n".join(case.texts(capsys, "refused"))
    assert f"{case.image}: has 4 bands" in refused
    assert f"{case.dsm}: DSM has 2 bands" in refused
    assert "--bbox 0 0 1 1 does not touch it" in refused
    (note,) = case.texts(capsys, "note")
    assert note.startswith(f"{case.dsm}: lies up to 0.50 px off")


def test_scenes_do_not_depend_on_each_other(case: Case, capsys: Capture) -> None:
    write_scene(case.folder / "scenes", "b")
    case.image.write_text("no raster")
    code, summary = case.checked(capsys)
    assert code == 4
    assert [scene["verdict"] for scene in summary["scenes"]] == ["refused", "ok"]


# --- pixels --------------------------------------------------------------------------------------


def test_values_on_another_scale_get_a_range(case: Case, capsys: Capture) -> None:
    """Whose words then mend it."""
    _sixteen_bits(case)
    (note,) = case.texts(capsys, "note")
    found = re.search(r"--image-range ([\d.]+) ([\d.]+), or --image-percentiles 2 98", note)
    assert found is not None
    case.words = ["--image-range", *found.groups()]
    assert case.checked(capsys)[0] == main(case.command()) == 0


@pytest.mark.parametrize("row", [0, 39])
@pytest.mark.parametrize("value", [-1, 256])
def test_one_wrong_pixel_is_found_wherever_it_is(
    case: Case, capsys: Capture, monkeypatch: pytest.MonkeyPatch, row: int, value: int
) -> None:
    monkeypatch.setattr("mfnet_runtime.raster.open.PIECE", 256)
    monkeypatch.setattr("mfnet_runtime.scene.image.SAMPLE_SIDE", 4)

    def change(pixels: Any) -> Any:
        wide = pixels.astype(np.int16)
        wide[2, row, 20] = value
        return wide

    case.pixels(change, tiled=True, blockxsize=16, blockysize=16)
    case.dsm.unlink()  # so that nothing opens the scene as a run does
    _, refused = case.texts(capsys, "refused")
    assert f"pixel values reach {value}, the model expects 0 to 255" in refused


@pytest.mark.parametrize(
    ("top", "full_scale", "told"),
    [
        (1.0, 255.0, "pixel values reach only 1 in a sample"),  # 0 to 1 for a model of 8 bits
        (10_000.0, 65_535.0, "sees a dark image"),  # reflectance in 16 bits
        (255.0, 255.0, None),
    ],
)
def test_dark_images(
    case: Case, capsys: Capture, top: float, full_scale: float, told: str | None
) -> None:
    case.model["image"] = ImageRule(full_scale=full_scale)
    case.pixels(lambda pixels: pixels.astype(np.float32) * (top / pixels.max()))
    warnings = case.texts(capsys, "warning")
    assert len(warnings) == (told is not None)
    assert told is None or (told in warnings[0] and "--image-range" in warnings[0])


def test_flat_bands(case: Case, capsys: Capture) -> None:
    case.pixels(lambda pixels: np.concatenate([pixels[:2], np.full((1, 40, 48), 7, np.uint8)]))
    (warning,) = case.texts(capsys, "warning")
    assert "band 3 is 7 wherever there is data" in warning


def test_bands_by_other_names(case: Case, capsys: Capture) -> None:
    with rasterio.open(case.image, "r+") as target:
        target.colorinterp = [ColorInterp.blue, ColorInterp.green, ColorInterp.red]
    (warning,) = case.texts(capsys, "warning")
    assert "the file calls its bands 1,2,3 blue, green, red; --bands 3,2,1" in warning
    case.words += ["--bands", "3,2,1"]
    assert case.texts(capsys, "warning") == []
    case.words = []
    (case.folder / "rgbd.onnx").unlink()
    case.model["image"] = ImageRule(("nir", "red", "green"))
    (warning,) = case.texts(capsys, "warning")
    assert "the model expects nir, red, green" in warning
    assert "--bands" in warning


def test_margins_that_count_as_data(case: Case, capsys: Capture) -> None:
    def framed(pixels: Any) -> Any:
        pixels[:, :4] = 255
        return pixels

    case.pixels(framed)
    (note,) = case.texts(capsys, "note")
    assert note.startswith("10.0% of the pixels are plain white")
    assert "--nodata-image 255" in note
    case.words = ["--nodata-image", 255]
    assert case.texts(capsys, "note") == []
    _, summary = case.checked(capsys)
    assert summary["scenes"][0]["image"]["masked"] == {"--nodata-image 255": 0.1}


def test_masks_by_cause(case: Case, capsys: Capture) -> None:
    def holes(pixels: Any) -> Any:
        broken = pixels.astype(np.float32)
        broken[:, 0], broken[0, 1, :24], broken[:, 2] = -9999, np.nan, 77
        return broken

    case.pixels(holes, nodata=-9999)
    case.words = ["--nodata-image", 77]
    _, summary = case.checked(capsys)
    (scene,) = summary["scenes"]
    shares = {"NaN or infinite": 24, "nodata value -9999": 48, "--nodata-image 77": 48}
    assert scene["image"]["masked"] == {
        name: pytest.approx(pixels / 1920, abs=1e-6) for name, pixels in shares.items()
    }
    assert scene["classified"] == pytest.approx(1 - 120 / 1920, abs=1e-6)


def test_infrared_flagged_as_alpha(case: Case, capsys: Capture) -> None:
    infrared = np.random.default_rng(0).integers(1, 255, (1, 40, 48), np.uint8)
    case.pixels(lambda pixels: np.concatenate([pixels, infrared]))
    with rasterio.open(case.image, "r+") as target:
        target.colorinterp = [*target.colorinterp[:3], ColorInterp.alpha]
    (warning,) = case.texts(capsys, "warning")
    assert "band 4 is flagged as alpha" in warning
    case.words = ["--ignore-alpha"]
    assert case.texts(capsys, "warning") == []


def test_an_image_without_a_pixel(case: Case, capsys: Capture) -> None:
    case.pixels(lambda pixels: np.zeros_like(pixels), nodata=0)
    (warning,) = case.texts(capsys, "warning")
    assert "has no pixel with data" in warning
    _, summary = case.checked(capsys)
    (scene,) = summary["scenes"]
    assert (scene["classified"], scene["skipped_windows"]) == (0, scene["windows"])


# --- heights -------------------------------------------------------------------------------------


def _spiked(heights: Any) -> Any:
    heights[0, :2] = -999
    return heights


@pytest.mark.parametrize(
    ("change", "told", "remedy"),
    [
        (_spiked, "5.00% of the pixels are exactly -999, the next height is 100", "--nodata-dsm -"),
        (lambda heights: np.maximum(heights - 100.5, 0), None, None),  # above the ground
        (lambda heights: np.full_like(heights, 7), "every height is 7", "give the right DSM"),
        (lambda heights: np.full_like(heights, np.nan), "holds no height", "gdalinfo"),
    ],
)
def test_heights_that_say_little(
    case: Case, capsys: Capture, change: Any, told: str | None, remedy: str | None
) -> None:
    case.heights(lambda heights: change(heights).astype(np.float32))
    warnings = case.texts(capsys, "warning")
    assert len(warnings) == (told is not None)
    if told is not None and remedy is not None:
        assert told in warnings[0]
        assert remedy in warnings[0]


def test_one_outlier_takes_the_range(case: Case, capsys: Capture) -> None:
    def change(heights: Any) -> Any:
        heights[0, 0, 0] = 9000
        return heights

    case.heights(change)
    (warning,) = case.texts(capsys, "warning")
    found = re.search(r"use 1% of the network's range of 100[.\d]* \.\. 9000", warning)
    assert found is not None
    remedy = re.search(r"--dsm-range (\d+) (\d+)$", warning)
    assert remedy is not None
    assert int(remedy[1]) == 100
    case.words = ["--dsm-range", *remedy.groups()]
    assert case.texts(capsys, "warning") == []


def test_values_no_place_on_earth_has(case: Case, capsys: Capture) -> None:
    def change(heights: Any) -> Any:
        heights[0, 0], heights[0, 1, :12] = -32767, np.inf
        return heights

    case.heights(change)
    (note,) = case.texts(capsys, "note")
    assert note.startswith("2.50% of the pixels hold values that no place on Earth has")
    _, summary = case.checked(capsys)
    assert summary["scenes"][0]["dsm"]["masked"] == {
        "NaN or infinite": 0.00625,
        "not between -1000 and 1e+06": 0.025,
    }


@pytest.mark.parametrize(
    ("factor", "unit", "told"),
    [
        (1.0, None, "no file states the unit"),
        (3.28084, "ft", "heights are in ft, as the file states"),
        (100.0, None, "heights are in centimetres or less, it seems"),
        (100.0, "m", "heights are in centimetres or less, it seems"),
        (0.001, None, "no unit but shares"),
    ],
)
def test_units_matter_where_the_range_is_fixed(
    case: Case, capsys: Capture, factor: float, unit: str | None, told: str
) -> None:
    case.heights(lambda heights: heights * np.float32(factor))
    with rasterio.open(case.dsm, "r+") as target:
        target.units = (unit,)
    assert any(told in text for text in case.texts(capsys, "ok", "note"))
    assert case.texts(capsys, "warning") == []
    (case.folder / "rgbd.onnx").unlink()
    case.model["dsm"] = DsmRule("range", 0.0, 20_000.0)
    found = [text for text in case.texts(capsys, "ok", "warning") if told in text]
    assert len(found) == 1
    assert ("is in metres" in found[0]) == (factor != 1.0)


def test_heights_outside_of_a_fixed_range(case: Case, capsys: Capture) -> None:
    case.model["dsm"] = DsmRule("range", 0.0, 50.0)
    (warning,) = case.texts(capsys, "warning")
    assert "do not lie in the range 0 .. 50 that becomes 0 .. 1" in warning
    remedy = re.search(r"--dsm-range (\d+) (\d+)$", warning)
    assert remedy is not None
    case.words = ["--dsm-range", *remedy.groups()]
    assert case.texts(capsys, "warning") == []


def test_heights_in_a_band_of_the_image(case: Case, capsys: Capture) -> None:
    """A warning about the colours is none about the heights."""
    case.pixels(
        lambda pixels: np.concatenate([pixels.astype(np.float32) / 255, read(case.dsm, None)])
    )
    with rasterio.open(case.image, "r+") as target:  # as GDAL does by itself
        target.colorinterp = [*target.colorinterp[:3], ColorInterp.alpha]
    shutil.rmtree(case.dsm.parent)
    case.words = ["--dsm-band", 4]
    assert not any("alpha" in text for text in case.texts(capsys, "warning"))
    code, summary = case.checked(capsys)
    (scene,) = summary["scenes"]
    assert (code, scene["verdict"]) == (main(case.command()), "warning")
    assert scene["dsm"]["low"] >= 100
    assert scene["image"]["high"] == [pytest.approx(200 / 255)] * 3


# --- grids ---------------------------------------------------------------------------------------


def test_what_align_would_do(case: Case, capsys: Capture) -> None:
    case.heights(lambda heights: heights, **HALF)
    (note,) = case.texts(capsys, "note")
    assert note.startswith("with --align: DSM of 40 x 48 px of 0.5 metre (EPSG:32632) aligned")
    case.words = ["--align"]
    assert case.checked(capsys)[0] == main(case.command()) == 0


def test_a_dsm_of_half_the_image(case: Case, capsys: Capture) -> None:
    shift = {**UTM, "transform": UTM["transform"] @ Affine.translation(24, 0)}
    case.heights(lambda heights: heights, **shift)
    case.words = ["--align"]
    (warning,) = case.texts(capsys, "warning")
    assert warning.startswith("the DSM covers 50.0% of the image")


def test_image_and_dsm_that_do_not_overlap_in_data(case: Case, capsys: Capture) -> None:
    case.pixels(lambda pixels: np.where(np.arange(40)[:, None] < 20, pixels, 0), nodata=0)
    case.heights(
        lambda heights: np.where(np.arange(40)[:, None] < 20, np.float32(-9999), heights),
        nodata=-9999,
    )
    (warning,) = case.texts(capsys, "warning")
    assert "nothing would get a class" in warning


def test_an_image_without_a_place(case: Case, capsys: Capture) -> None:
    write_raster(case.image, read(case.image, None))
    (note,) = case.texts(capsys, "note")
    assert "no place on Earth" in note
    (warning,) = case.texts(capsys, "warning")
    assert "fitted by their size alone" in warning


def test_rows_stored_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    array = np.zeros((3, 64, 80), np.uint8)
    strips = write_raster(tmp_path / "strips.tif", array, blockysize=32, **UTM)
    tiles = write_raster(
        tmp_path / "tiles.tif", array, tiled=True, blockxsize=32, blockysize=32, **UTM
    )
    files = [facts_from_file(path, DEFAULT_LIMITS) for path in (strips, tiles)]
    found = Findings()
    examine_blocks(found, files, 1)
    assert found.made == []
    examine_blocks(found, files, 2)
    (finding,) = found.made
    assert finding.text.startswith("strips.tif: is stored by whole rows")
    monkeypatch.setattr("mfnet_runtime.preflight.storage.LARGE_BLOCK", 32 * 80 * 3 - 1)
    for facts in files:
        examine_storage(found, facts)
    assert [one.text[:10] for one in found.made if one.level == "warning"] == ["strips.tif"]


# --- the model, and the run as a whole -----------------------------------------------------------


def test_a_model_that_cannot_run_ends_as_a_run_does(case: Case, capsys: Capture) -> None:
    (case.folder / "rgbd.onnx").write_bytes(b"no model")
    words = case.command()
    assert main([*words, "--check"]) == main(words) == 3
    one, two = capsys.readouterr().err.splitlines()
    assert one == two


def test_a_plan_is_vouched_for_before_it_is_opened(case: Case, capsys: Capture) -> None:
    """Where TensorRT is not installed, that is told beside."""
    plan = case.folder / "rgbd.plan"
    plan.write_bytes(b"not opened here")
    facts = plan_facts(Contract(32, RGBD), plan_sha256=sha256_from_file(plan))
    sidecar_of(plan).write_text(facts.to_json())
    words = [str(plan), str(case.folder / "scenes"), "--check", "--json"]
    main(words)
    texts = [one["text"] for one in json.loads(capsys.readouterr().out)["findings"]]
    assert not any("SHA-256" in text for text in texts)
    plan.write_bytes(b"changed")
    assert main(words) in (2, 3)
    summary = json.loads(capsys.readouterr().out)
    assert any("its SHA-256 is" in one["text"] for one in summary["findings"])
    assert summary["scenes"][0]["verdict"] == "ok"


def test_a_full_disk(case: Case, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(case.folder)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=100))
    code, summary = case.checked(capsys)
    assert code == 0
    (finding,) = summary["findings"]
    assert finding["level"] == "warning"
    assert "make room" in finding["text"]


def test_an_unfinished_run_is_told(case: Case, capsys: Capture) -> None:
    (case.out / WORK).mkdir(parents=True)
    _, summary = case.checked(capsys)
    assert "a run there is not finished; add --resume" in summary["findings"][0]["text"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written(case: Case, capsys: Capture) -> None:
    case.folder.chmod(0o500)
    try:
        assert main([*case.command(), "--check"]) == 5
    finally:
        case.folder.chmod(0o700)


def test_outputs_need_a_place_only_for_a_run(case: Case, capsys: Capture) -> None:
    words = [word for word in case.command() if word not in ("-o", str(case.out))]
    assert main([*words, "--check"]) == 0
    assert main(words) == 2
    assert "-o says where the outputs go" in capsys.readouterr().err


# --- for people ----------------------------------------------------------------------------------


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
        "  size      4385 x 3248 px                               2192 x 1104 px",
        "  pixel     1 foot (0.3048 m)                            2 foot (0.6096 m)",
        "nodata value -9999 2.11%",
        "with --align: DSM of 2192 x 1104 px of 2 foot",
        "map coordinates are in foot, heights may be too",
        "1 scene: 0 well, 1 would be refused, 0 with warnings. Nothing was written.",
    ):
        assert part in out


def test_nobody_needs_to_read_on(case: Case) -> None:
    """As `mfnet-run ... --check | head -1`."""
    code = f"import sys; sys.path[:] = {sys.path!r}; from mfnet_runtime.cli.main import main; "
    words = [sys.executable, "-c", code + f"sys.exit(main({[*case.command(), '--check']!r}))"]
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(words, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


def test_quiet_is_about_trouble_alone(case: Case, capsys: Capture) -> None:
    write_scene(case.folder / "scenes", "b")
    case.pixels(lambda pixels: np.full_like(pixels, 9))
    assert main([*case.command(), "--check", "-q"]) == 0
    out = capsys.readouterr().out
    assert "a: warning" in out
    assert "b: " not in out
    assert "  size" not in out
    assert "2 scenes: 1 well, 0 would be refused, 1 with warnings" in out


# --- numbers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("parts", [1, 3, 50])
def test_spread_and_ends(parts: int) -> None:
    values = np.random.default_rng(parts).integers(-50, 50, 4000).astype(np.float32)
    spread, low, high = Spread(values.size), End(), End()
    for part in np.array_split(values, parts):
        spread.add(part)
        low.add(part)
        high.add(-part)
    inner = np.unique(values)
    assert (spread.low, spread.high, spread.count) == (inner[0], inner[-1], 4000)
    assert spread.percentiles(1, 99) == np.percentile(values, [1, 99]).tolist()
    assert (low.last, low.next) == (inner[0], inner[1])
    assert (high.last, high.next) == (-inner[-1], -inner[-2])
    assert low.count == (values == inner[0]).sum()


def test_the_value_before_the_last_may_have_been_the_last() -> None:
    end = End()
    for part in ([5.0, 7.0], [3.0, 9.0], [3.0], [4.0]):
        end.add(np.array(part))
    assert (end.last, end.count, end.next) == (3.0, 2, 4.0)
    end.add(np.array([1.0]))
    assert (end.last, end.count, end.next) == (1.0, 1, 3.0)


def test_a_pixel_has_one_cause() -> None:
    counts = Counts()
    first, second = np.array([True, True, False]), np.array([False, True, True])
    counts.add([("first", first), ("second", second)], 3)
    assert counts.shares() == {"first": 2 / 3, "second": 1 / 3}


@pytest.mark.parametrize(("window", "stride"), [(64, 32), (64, 50), (32, 32), (64, 64)])
def test_windows_told_to_be_skipped_are(window: int, stride: int) -> None:
    rng = np.random.default_rng(stride)
    wanted = np.zeros((200, 333), np.bool_)
    for top, left in rng.integers(0, 200, (4, 2)):
        wanted[top : top + 9, left : left + 9] = True
    cover = Coverage(*wanted.shape)
    for top in range(0, 200, 70):
        for left in range(0, 333, 90):
            part = wanted[top : top + 70, left : left + 90]
            cover.add(rasterio.windows.Window(left, top, part.shape[1], part.shape[0]), part)
    grid = WindowGrid(200, 333, window, stride)
    empty = [
        not wanted[row.start : row.start + window, column.start : column.start + window].any()
        for row, column in grid
    ]
    told = cover.empty(grid)
    assert cover.wanted == wanted.sum()
    assert 0 < told <= sum(empty)
    if stride % CELL == 0 and window % CELL == 0:
        inner = [
            e
            for e, (row, column) in zip(empty, grid, strict=True)
            if row.start % CELL == column.start % CELL == 0
        ]
        assert told >= sum(inner)


def test_a_large_raster_is_looked_at_in_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mfnet_runtime.preflight.statistics.FULL", 1000)
    monkeypatch.setattr("mfnet_runtime.preflight.statistics.SIDE", 16)
    tiles = {"tiled": True, "blockxsize": 16, "blockysize": 16}
    path = write_raster(tmp_path / "a.tif", np.zeros((700, 500), np.uint8), **tiles, **UTM)
    with rasterio.open(path) as dataset:
        sample = sample_of(dataset)
    assert not sample.whole
    assert len(sample.windows) == 256
    assert sample.share == pytest.approx(256 * 256 / 350_000)
    assert all(window.col_off % 16 == window.row_off % 16 == 0 for window in sample.windows)
    assert max(window.row_off for window in sample.windows) > 650
