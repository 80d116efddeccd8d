"""`--check` refuses what a run refuses, with the same text and code."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from preflight_case import (
    Capture,
    Case,
    all_of,
    four_bands,
    heights,
    pixels,
    shifted,
    sixteen_bits,
    words,
)
from support import read, write_scene

from mfnet_runtime.cli.main import main


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path)


def _damaged(case: Case, part: str) -> None:
    """Zeros in a compressed block."""
    noise = np.random.default_rng(0).integers(0, 255, (3, 300, 300), np.uint8)
    case.pixels(lambda _: noise, compress="deflate")
    case.heights(lambda _: noise[:1].astype(np.float32), compress="deflate")
    with getattr(case, part).open("r+b") as file:
        file.seek(-50_000, os.SEEK_END)
        file.write(bytes(10_000))


def _one_bright_pixel(case: Case) -> None:
    pixels = read(case.image, None).astype(np.uint16)
    pixels[1, 39, 47] = 256
    case.pixels(lambda _: pixels)


def _palette(case: Case) -> None:
    case.pixels(lambda pixels: pixels[:1])
    with rasterio.open(case.image, "r+") as target:
        target.write_colormap(1, {1: (1, 2, 3)})
    case.words += ["--bands", "1,1,1"]


def _long_name(case: Case) -> None:
    for path in (case.image, case.dsm):
        path.rename(path.with_stem("n" * 245))


def _polygons_without_an_area(case: Case) -> None:
    for change in (case.pixels, case.heights):
        change(lambda array: array, crs=None)
    case.words += ["--vectors", "gpkg", "--min-area", 5]


REFUSED: dict[str, Any] = {
    "polygons without an area": _polygons_without_an_area,
    "a name too long": _long_name,
    "no DSM": lambda case: case.dsm.unlink(),
    "no raster": lambda case: case.image.write_text("no raster"),
    "damaged image": lambda case: _damaged(case, "image"),
    "damaged DSM": lambda case: _damaged(case, "dsm"),
    "16 bits": sixteen_bits,
    "one bright pixel": _one_bright_pixel,
    "negative values": pixels(lambda array: array.astype(np.int16) - 5),
    "four bands": four_bands,
    "a DSM of two bands": heights(lambda array: np.concatenate([array] * 2)),
    "palette": _palette,
    "no percentiles": all_of(
        pixels(lambda array: np.full(array.shape, np.nan, np.float32)),
        words("--image-percentiles", 2, 98),
    ),
    "no such band": words("--bands", "1,2,9"),
    "no such DSM band": words("--dsm-band", 2),
    "another size": heights(lambda array: array[:, :30]),
    "half a pixel off": heights(**shifted(0.5)),
    "another CRS": heights(crs="EPSG:32633"),
    "elsewhere": heights(**shifted(5000)),
    "elsewhere, aligned": all_of(heights(**shifted(5000)), words("--align")),
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
    assert summary["scenes"][0]["replaced"] == ["a.tif", "a.tif.aux.xml", "a.qml"]


def test_all_refusals_come_at_once(case: Case, capsys: Capture) -> None:
    """A run stops at the first of these; another scene is not concerned."""
    four_bands(case)
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
