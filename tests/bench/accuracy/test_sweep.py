"""`mfnet-bench sweep`: scores against a plain sum over windows, its files, and what it refuses."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from matplotlib.image import imread
from support import UTM, read, window_weights, write_raster, write_rgbd_model, write_scene

from mfnet_bench.accuracy.scoring import scored_run
from mfnet_bench.accuracy.sweep import SweepRequest
from mfnet_bench.accuracy.sweep_report import COLOURS
from mfnet_bench.cli import main
from mfnet_runtime.tiling.options import BLENDS, BlendName

WINDOW = 32
HEIGHT, WIDTH = 40, 48
Capture = pytest.CaptureFixture[str]


def bench(*words: object) -> int:
    return main(["sweep", *(str(word) for word in words)])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for seed, name in enumerate("ab"):
        write_scene(tmp_path / "scenes", name, HEIGHT, WIDTH, seed=seed, label=True)
    return tmp_path / "scenes"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_rgbd_model(tmp_path / "rgbd.onnx", WINDOW)


def rim_bias() -> npt.NDArray[np.float32]:
    """(1, 4, row, column): the left third of a window prefers class 0."""
    bias = np.zeros((1, 4, WINDOW, WINDOW), np.float32)
    bias[0, 0, :, : WINDOW // 3] = 0.5
    return bias


def blind_at_the_rim(source: Path, path: Path) -> Path:
    """The model with `rim_bias` on its logits, so that windows matter."""
    model = onnx.load(source)
    model.graph.initializer.append(onnx.numpy_helper.from_array(rim_bias(), "bias"))
    model.graph.node[0].output[0] = "plain"
    model.graph.node.append(onnx.helper.make_node("Add", ["plain", "bias"], ["logits"]))
    onnx.save(model, path)
    return path


def plain_classes(folder: Path, name: str, stride: int, blend: BlendName) -> npt.NDArray[Any]:
    """The class map as the published loop over windows gives it, visits and all."""
    dsm = read(folder / "dsm" / f"{name}.tif")
    scaled = (dsm - dsm.min()) / (dsm.max() - dsm.min())
    image = read(folder / "image" / f"{name}.tif", None) * np.float32(1 / 255)
    logits = np.concatenate([image, scaled[None]])
    total = np.zeros(logits.shape)
    visits = [
        (min(row, HEIGHT - WINDOW), min(column, WIDTH - WINDOW))
        for row in range(0, HEIGHT, stride)
        for column in range(0, WIDTH, stride)
    ]
    for row, column in visits if blend == "uniform" else sorted(set(visits)):
        cut = (slice(None), slice(row, row + WINDOW), slice(column, column + WINDOW))
        total[cut] += (logits[cut] + rim_bias()[0]) * window_weights(blend, WINDOW)
    return np.asarray(total.argmax(0))


def mean_iou(truth: npt.NDArray[Any], found: npt.NDArray[Any]) -> float:
    pairs = [(truth == index, found == index) for index in range(4)]
    return float(np.mean([(a & b).sum() / (a | b).sum() for a, b in pairs]))


def test_scores_are_those_of_the_plain_loop(
    tmp_path: Path, folder: Path, model: Path, capsys: Capture
) -> None:
    blind = blind_at_the_rim(model, tmp_path / "blind.onnx")
    words = ("--strides", "32,8,16,8", "--blends", "uniform,hann")
    assert bench(blind, folder, *words, "--json") == 0
    result = json.loads(capsys.readouterr().out)
    truth = np.stack([read(folder / "label" / f"{name}.tif") for name in "ab"])
    maps = {
        (row["stride"], row["blend"]): np.stack(
            [plain_classes(folder, name, row["stride"], row["blend"]) for name in "ab"]
        )
        for row in result["rows"]
    }
    assert list(maps) == [(s, blend) for s in (8, 16, 32) for blend in ("uniform", "hann")]
    assert result["reference"] == result["published"] == [32, "uniform"]
    assert result["default"] == [16, "hann"]
    published = maps[32, "uniform"]
    scores = set()
    for row in result["rows"]:
        found = maps[row["stride"], row["blend"]]
        score = mean_iou(truth, found)
        assert row["mean_iou"] == pytest.approx(score)
        assert row["oa"] == pytest.approx((truth == found).mean())
        assert row["agreement"] == pytest.approx((published == found).mean())
        assert row["iou_change"] == pytest.approx(100 * (score - mean_iou(truth, published)))
        scores.add(score)
    assert len(scores) > 3  # or the strides would not have been told apart


def test_windows_and_times(folder: Path, model: Path, capsys: Capture) -> None:
    assert bench(model, folder, "--strides", "16,32", "--blends", "uniform", "--json") == 0
    dense, coarse = json.loads(capsys.readouterr().out)["rows"]
    assert (dense["windows"], coarse["windows"]) == (2 * 2 * 2, 2 * 2 * 2)  # 0, 8 and 0, 16
    assert dense["windows_a_pixel"] == pytest.approx(4 * WINDOW**2 / (HEIGHT * WIDTH))
    assert coarse["speed_up"] == 1.0
    assert dense["speed_up"] == pytest.approx(coarse["seconds"] / dense["seconds"])
    pixels = 2 * HEIGHT * WIDTH
    assert dense["mpx_per_s"] == pytest.approx(pixels / 1e6 / dense["seconds"])
    assert 0 < dense["backend_s"] < dense["seconds"]


def test_a_scene_smaller_than_a_window_is_seen_once(
    tmp_path: Path, model: Path, capsys: Capture
) -> None:
    write_scene(tmp_path / "small", "a", 20, 24, label=True)
    out = tmp_path / "out"
    assert bench(model, tmp_path / "small", "--strides", "32", "--json", "-o", out) == 0
    assert (out / "sweep.png").is_file()
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["windows_a_pixel"] for row in rows] == [1.0] * len(BLENDS)
    assert [row["mean_iou"] for row in rows] == [1.0] * len(BLENDS)


def test_files(tmp_path: Path, folder: Path, model: Path, capsys: Capture) -> None:
    out = tmp_path / "new" / "out"
    words = ("--only", "a", "--mean-over", "0,1", "--threads", "1", "--backend", "onnxruntime")
    assert bench(model, folder, *words, "-o", out) == 0
    table = capsys.readouterr().out
    assert "| 32     | uniform |" in table
    assert "stride 32, uniform (the published protocol)" in table
    with (out / "sweep.csv").open() as file:
        rows = list(csv.DictReader(file))
    strides = [4, 8, 12, 16, 24, 32]  # eighths of the window
    assert [int(row["stride"]) for row in rows] == [s for s in strides for _ in BLENDS]
    assert {row["mean_iou"] for row in rows} == {"1.0"}
    facts = json.loads((out / "sweep.json").read_text())
    assert facts["scenes"] == ["a"]
    assert facts["counted"] == [0, 1]
    assert facts["threads"] == 1
    assert facts["machine"]["cores"] >= 1
    engines = [facts["machine"][name] for name in ("onnxruntime", "openvino")]
    assert any(version and version in facts["device"] for version in engines)
    assert [str(row["windows"]) for row in facts["rows"]] == [row["windows"] for row in rows]
    shown = np.rint(imread(out / "sweep.png")[..., :3] * 255).astype(int)
    assert shown.shape[1] == 1200
    for colour in COLOURS.values():  # both curves are there
        wanted = [int(colour[at : at + 2], 16) for at in (1, 3, 5)]
        assert (shown == wanted).all(-1).sum() > 500


def test_the_run_of_median_time_counts(
    folder: Path, model: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = iter([99.0, 1.0, 10.0, 4.0, 40.0, 2.0, 20.0])  # warm-up, then rounds of two

    def timed(*args: Any) -> Any:
        result, maps = scored_run(*args)
        result.total_s = next(seconds)
        return result, maps

    monkeypatch.setattr("mfnet_bench.accuracy.sweep.scored_run", timed)
    words = ("--strides", "16,32", "--blends", "uniform", "--rounds", "3", "--json")
    assert bench(model, folder, *words) == 0
    dense, coarse = json.loads(capsys.readouterr().out)["rows"]
    assert (coarse["seconds"], dense["seconds"]) == (2.0, 20.0)
    assert dense["speed_up"] == 0.1
    assert list(seconds) == []


def test_without_the_published_protocol_the_densest_is_the_reference(
    folder: Path, model: Path, capsys: Capture
) -> None:
    assert bench(model, folder, "--strides", "16,8", "--blends", "hann") == 0
    out = capsys.readouterr().out
    assert "against stride 8, hann." in out
    assert "published" not in out


def test_strides_are_eighths_of_any_window() -> None:
    request = SweepRequest(model=Path("m"), scenes=Path("s"), blends="hann, hann")
    assert [stride for stride, _ in request.settings(256)] == [32, 64, 96, 128, 192, 256]
    assert [stride for stride, _ in request.settings(512)] == [64, 128, 192, 256, 384, 512]


@pytest.mark.parametrize(
    ("words", "code", "parts"),
    [
        ("--strides 0", 2, ["stride is 0 px"]),
        ("--strides 16,48", 2, ["48 px", "1 to 32"]),
        ("--strides 16,x", 2, ["--strides '16,x'", "whole numbers"]),
        ("--blends hann,gauss", 2, ["'gauss'", "uniform, hann"]),
        ("--blends ", 2, ["no blending named"]),
        ("--mean-over 7", 2, ["--mean-over '7'", "0 to 3"]),
        ("--rounds 0", 2, ["--rounds is 0"]),
        ("--batch 0", 2, ["batch is 0"]),
        ("--backend abacus", 2, ["'abacus'"]),
        ("--dataset vaihingen --only a", 2, ["--dataset fixes"]),
        ("--dataset atlantis", 2, ["'atlantis'"]),
        ("--only c", 2, ["c"]),
    ],
)
def test_bad_options(
    tmp_path: Path,
    folder: Path,
    model: Path,
    capsys: Capture,
    words: str,
    code: int,
    parts: list[str],
) -> None:
    assert bench(model, folder, *words.split(" "), "-o", tmp_path / "out") == code
    err = capsys.readouterr().err
    assert len(err.strip().splitlines()) == 1
    for part in parts:
        assert part in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "code", "part"),
    [
        ("no label", 2, "files are missing"),
        ("nothing labelled", 4, "no pixel of the labels"),
        ("broken image", 4, "a.tif: cannot be opened"),
        ("no model", 2, "no such model file"),
    ],
)
def test_bad_files(
    folder: Path, model: Path, capsys: Capture, change: str, code: int, part: str
) -> None:
    if change == "no label":
        (folder / "label" / "a.tif").unlink()
    elif change == "nothing labelled":
        for name in "ab":
            nothing = np.full((HEIGHT, WIDTH), 255, np.uint8)
            write_raster(folder / "label" / f"{name}.tif", nothing, **UTM)
    elif change == "broken image":
        (folder / "image" / "a.tif").write_bytes(b"broken")
    else:
        model.unlink()
    assert bench(model, folder) == code
    err = capsys.readouterr().err
    assert part in err
    assert len(err.strip().splitlines()) == 1
