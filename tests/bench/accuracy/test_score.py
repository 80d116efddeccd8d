"""`mfnet-bench miou`: the scores of the maps of mfnet-run, its files, and what it refuses."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from matplotlib.image import imread
from networks import write_checkpoint
from support import UTM, read, write_raster, write_rgbd_model, write_scene

from mfnet_bench.accuracy.report import COLOURS
from mfnet_bench.accuracy.score import run_scenes
from mfnet_bench.cli import main
from mfnet_runtime.cli.main import main as run

WINDOW = 32
HEIGHT, WIDTH = 40, 48
Capture = pytest.CaptureFixture[str]


def bench(*words: object) -> int:
    return main(["miou", *(str(word) for word in words)])


def results(capsys: Capture) -> Any:
    return json.loads(capsys.readouterr().out)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for seed, name in enumerate("ab"):
        write_scene(tmp_path / "scenes", name, HEIGHT, WIDTH, seed=seed, label=True)
    return tmp_path / "scenes"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_rgbd_model(tmp_path / "rgbd.onnx", WINDOW)


def with_node(source: Path, path: Path, kind: str, second: npt.NDArray[Any], **more: Any) -> Path:
    """The model with one more node on its logits."""
    model = onnx.load(source)
    model.graph.initializer.append(onnx.numpy_helper.from_array(second, "second"))
    model.graph.node[0].output[0] = "plain"
    model.graph.node.append(onnx.helper.make_node(kind, ["plain", "second"], ["logits"], **more))
    onnx.save(model, path)
    return path


def swapped(source: Path, path: Path) -> Path:
    """Exchange classes 0 and 1."""
    return with_node(source, path, "Gather", np.array([1, 0, 2, 3]), axis=1)


def mean_iou(truth: npt.NDArray[Any], found: npt.NDArray[Any]) -> float:
    pairs = [(truth == index, found == index) for index in range(4)]
    return float(np.mean([(a & b).sum() / (a | b).sum() for a, b in pairs]))


def test_scores_are_those_of_the_maps_of_mfnet_run(
    tmp_path: Path, folder: Path, model: Path, capsys: Capture
) -> None:
    bias = np.zeros((1, 4, WINDOW, WINDOW), np.float32)
    bias[0, 0, :, : WINDOW // 3] = 0.5  # the left of a window prefers class 0: windows matter
    blind = with_node(model, tmp_path / "blind.onnx", "Add", bias)
    words = "--stride 32,8,16,8 --blend uniform,hann --backend onnxruntime --json"
    assert bench(blind, folder, *words.split()) == 0
    rows = results(capsys)
    truth = np.stack([read(folder / "label" / f"{name}.tif") for name in "ab"])
    settings = [(row["stride"], row["blend"]) for row in rows]
    assert settings == [(s, blend) for s in (32, 8, 16) for blend in ("uniform", "hann")]
    maps = []
    for row, (stride, blend) in zip(rows, settings, strict=True):
        out = tmp_path / f"{stride}_{blend}"
        options = f"--stride {stride} --blend {blend} --backend onnxruntime"
        assert run(f"{blind} {folder} -o {out} {options}".split()) == 0
        maps.append(np.stack([read(out / f"{name}.tif") for name in "ab"]))
        assert row["mean_iou"] == pytest.approx(mean_iou(truth, maps[-1]))
        assert row["oa"] == pytest.approx((truth == maps[-1]).mean())
        assert row["agreement"] == pytest.approx((maps[0] == maps[-1]).mean())
        assert row["mpx_per_s"] == pytest.approx(2 * HEIGHT * WIDTH / 1e6 / row["seconds"])
        assert row["windows_per_s"] > 0
        assert 0 <= row["outside_backend"] < 1
    assert len({row["mean_iou"] for row in rows}) > 3  # the strides differ


def test_models_side_by_side(tmp_path: Path, folder: Path, model: Path, capsys: Capture) -> None:
    other = swapped(model, tmp_path / "swapped.onnx")
    assert bench(model, other, folder, "--json", "-o", tmp_path / "out") == 0
    perfect, row = results(capsys)
    assert perfect["mean_iou"] == perfect["mean_f1"] == perfect["oa"] == perfect["kappa"] == 1.0
    assert perfect["agreement"] == 1.0
    assert perfect["pixels"] == 2 * HEIGHT * WIDTH
    assert (perfect["stride"], perfect["blend"]) == (16, "hann")
    truth = np.concatenate([read(folder / "label" / f"{name}.tif") for name in "ab"])
    image = np.concatenate([read(folder / "image" / f"{name}.tif", None) for name in "ab"], 1)
    # red and green exchanged; where they are alike, the first still wins
    kept = (np.isin(truth, [2, 3]) | ((truth == 0) & (image[0] == image[1]))).mean()
    assert row["agreement"] == pytest.approx(kept)
    assert row["oa"] == pytest.approx(kept)
    assert row["iou"][1] == 0.0
    assert row["iou"][2:] == [1.0, 1.0]
    assert json.loads((tmp_path / "out/miou.json").read_text())[1]["oa"] == row["oa"]
    with (tmp_path / "out/miou.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [r["class"] for r in rows[:5]] == ["red", "green", "blue", "high", "mean"]
    assert float(rows[-1]["iou"]) == pytest.approx(row["mean_iou"])
    assert not (tmp_path / "out/miou.png").exists()  # one stride is no curve


def test_models_of_the_same_name_are_distinguished(
    tmp_path: Path, folder: Path, model: Path, capsys: Capture
) -> None:
    (tmp_path / "b").mkdir()
    other = swapped(model, tmp_path / "b" / model.name)
    assert bench(model, other, folder, "--only", "a", "--mean-over", "0,1") == 0
    out = capsys.readouterr().out
    assert f"| {model} " in out
    assert f"{other} IoU" in out
    assert "| high (not in the means) |" in out


def test_strides_are_drawn(tmp_path: Path, folder: Path, model: Path, capsys: Capture) -> None:
    out = tmp_path / "new" / "out"
    words = "--stride 8,16,32 --blend uniform,hann --threads 1 --backend onnxruntime"
    assert bench(model, folder, *words.split(), "-o", out) == 0
    table = capsys.readouterr().out
    assert table.count("| rgbd.onnx | onnxruntime |") == 6
    assert "| class" not in table
    (first, *_) = json.loads((out / "miou.json").read_text())
    assert first["machine"]["onnxruntime"] in first["device"]
    shown = np.rint(imread(out / "miou.png")[..., :3] * 255).astype(int)
    for blend in ("uniform", "hann"):  # both curves are there
        wanted = [int(COLOURS[blend][at : at + 2], 16) for at in (1, 3, 5)]
        assert (shown == wanted).all(-1).sum() > 500


def test_the_run_of_median_time_counts(
    folder: Path, model: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = iter([99.0, 1.0, 10.0, 4.0, 40.0, 2.0, 20.0])  # warm-up, then rounds of two

    def timed(*args: Any) -> Any:
        result, maps = run_scenes(*args)
        result.total_s = next(seconds)
        return result, maps

    monkeypatch.setattr("mfnet_bench.accuracy.score.run_scenes", timed)
    assert bench(model, folder, "--stride", "32,16", "--rounds", "3", "--json") == 0
    assert [row["seconds"] for row in results(capsys)] == [2.0, 20.0]
    assert list(seconds) == []


def test_the_paper_protocol_takes_its_stride(folder: Path, model: Path, capsys: Capture) -> None:
    assert bench(model, folder, "--paper", "--json") == 0
    (row,) = results(capsys)
    assert row["windows"] == 2 * 2 * 2  # stride 32 over 40 x 48
    assert row["mean_iou"] == 1.0


def test_a_checkpoint_runs_in_torch(tmp_path: Path, folder: Path, capsys: Capture) -> None:
    path = write_checkpoint(tmp_path / "UNetformer_epoch37_0.8412", WINDOW, classes=4)
    assert bench(path, path, folder, "--json", "--threads", "1") == 0
    first, second = results(capsys)
    assert first["backend"] == "torch"
    assert second["agreement"] == 1.0
    assert first["mean_iou"] == second["mean_iou"]


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ("--stride 0", "stride is 0 px"),
        ("--stride 16,48", "stride is 48 px; expected 1 to 32"),
        ("--stride 16,x", "--stride '16,x': expected whole numbers"),
        ("--blend hann,gauss", "'gauss'"),
        ("--mean-over 7", "--mean-over 7"),
        ("--rounds 0", "--rounds is 0"),
        ("--batch 0", "batch is 0"),
        ("--backend abacus", "'abacus'"),
        ("--dataset vaihingen --only a", "--dataset fixes"),
        ("--dataset atlantis", "'atlantis'"),
        ("--only c", "no scene named 'c'"),
        ("--bands 1", "--bands"),
        ("--paper --stride 8", "--paper fixes"),
    ],
)
def test_bad_options(
    tmp_path: Path, folder: Path, model: Path, capsys: Capture, words: str, part: str
) -> None:
    assert bench(model, folder, *words.split(), "-o", tmp_path / "out") == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert part in line
    assert not (tmp_path / "out").exists()


def unlabelled(folder: Path) -> None:
    for name in "ab":
        label = np.full((HEIGHT, WIDTH), 255, np.uint8)
        write_raster(folder / "label" / f"{name}.tif", label, nodata=255, **UTM)


# Missing and damaged scenes and models: tests/test_bad_input.py
@pytest.mark.parametrize(
    ("change", "code", "part"),
    [
        (lambda folder: (folder / "label/a.tif").unlink(), 2, "files are missing"),
        (unlabelled, 4, "no pixel of the labels"),
        (
            lambda folder: write_checkpoint(folder.with_name("three.pt"), WINDOW, classes=3),
            3,
            "compare models of the same classes",
        ),
    ],
)
def test_bad_files(
    tmp_path: Path,
    folder: Path,
    model: Path,
    capsys: Capture,
    change: Callable[[Path], object],
    code: int,
    part: str,
) -> None:
    change(folder)
    assert bench(model, *tmp_path.glob("*.pt"), folder, "-o", tmp_path / "out") == code
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert part in line
    assert not (tmp_path / "out").exists()
