"""`mfnet-bench miou`: exact scores of a model whose answer is known, and what it refuses."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from networks import random_network
from support import UTM, read, write_raster, write_rgbd_model, write_scene

from mfnet.checkpoints.checkpoint import Checkpoint, save_checkpoint
from mfnet_bench.cli import main
from mfnet_bench.table import figure, markdown_table
from mfnet_runtime.contract import Contract
from mfnet_runtime.labels import ClassTable

Capture = pytest.CaptureFixture[str]


def bench(*words: object) -> int:
    return main(["miou", *(str(word) for word in words)])


def results(capsys: Capture) -> Any:
    return json.loads(capsys.readouterr().out)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for seed, name in enumerate("ab"):
        write_scene(tmp_path / "scenes", name, seed=seed, label=True)
    return tmp_path / "scenes"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_rgbd_model(tmp_path / "rgbd.onnx")


def swapped(source: Path, path: Path) -> Path:
    """The same model with classes 0 and 1 exchanged where the image is red or green."""
    graph = onnx.load(source)
    order = onnx.numpy_helper.from_array(np.array([1, 0, 2, 3]), "order")
    graph.graph.initializer.append(order)
    graph.graph.node[0].output[0] = "plain"
    graph.graph.node.append(onnx.helper.make_node("Gather", ["plain", "order"], ["logits"], axis=1))
    onnx.save(graph, path)
    return path


def test_a_perfect_model_scores_one(folder: Path, model: Path, capsys: Capture) -> None:
    assert bench(model, folder, "--json") == 0
    (row,) = results(capsys)
    assert row["mean_iou"] == row["mean_f1"] == row["oa"] == row["kappa"] == 1.0
    assert row["agreement"] == 1.0
    assert row["pixels"] == 2 * 40 * 48
    assert row["windows_per_s"] > 0
    assert 0 <= row["outside_backend"] < 1


def test_models_side_by_side(tmp_path: Path, folder: Path, model: Path, capsys: Capture) -> None:
    other = swapped(model, tmp_path / "swapped.onnx")
    assert bench(model, other, folder, "--json", "-o", tmp_path / "out") == 0
    _, row = results(capsys)
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


def test_the_table_is_for_people(folder: Path, model: Path, capsys: Capture) -> None:
    assert bench(model, folder, "--only", "a", "--stride", "8", "--blend", "uniform") == 0
    out = capsys.readouterr().out
    assert re.search(r"\| rgbd.onnx \| \w+ +\| 1.0000 \|", out)  # on whatever backend is there
    assert "| high " in out


def test_the_paper_protocol_takes_its_stride(folder: Path, model: Path, capsys: Capture) -> None:
    assert bench(model, folder, "--paper", "--json") == 0
    (row,) = results(capsys)
    assert row["windows"] == 2 * 2 * 2  # stride 32 over 40 x 48
    assert row["mean_iou"] == 1.0


def test_a_checkpoint_runs_in_torch(tmp_path: Path, folder: Path, capsys: Capture) -> None:
    network = random_network("lora", window=32, classes=4)
    contract = Contract(32, ClassTable.numbered(4))
    path = tmp_path / "best.pt"
    save_checkpoint(path, Checkpoint(network.config, contract, network.state_dict()))
    assert bench(path, path, folder, "--json", "--threads", "1") == 0
    first, second = results(capsys)
    assert first["backend"] == "torch"
    assert second["agreement"] == 1.0
    assert first["mean_iou"] == second["mean_iou"]


def test_models_of_one_name_are_told_apart(
    tmp_path: Path, folder: Path, model: Path, capsys: Capture
) -> None:
    (tmp_path / "b").mkdir()
    other = swapped(model, tmp_path / "b" / model.name)
    assert bench(model, other, folder) == 0
    out = capsys.readouterr().out
    assert f"| {model} " in out
    assert f"{other} IoU" in out


@pytest.mark.parametrize(
    "words",
    [["--paper", "--stride", "8"], ["--dataset", "vaihingen", "--only", "a"], ["--bands", "1"]],
)
def test_options_that_exclude_each_other(
    folder: Path, model: Path, capsys: Capture, words: list[str]
) -> None:
    assert bench(model, folder, *words) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("change", "code", "part"),
    [
        ("no model", 2, "none.onnx: no such model file"),
        ("no scenes", 2, "no such file or folder"),
        ("no label", 2, "files are missing"),
        ("other label", 4, "class index 9"),
        ("other classes", 3, "compare models of the same classes"),
        ("broken image", 4, "a.tif: cannot be opened"),
    ],
)
def test_bad_input(
    tmp_path: Path, folder: Path, model: Path, capsys: Capture, change: str, code: int, part: str
) -> None:
    models, scenes = [model], folder
    if change == "no model":
        models = [tmp_path / "none.onnx"]
    elif change == "no scenes":
        scenes = tmp_path / "nowhere"
    elif change == "no label":
        (folder / "label" / "a.tif").unlink()
    elif change == "other label":
        write_raster(folder / "label" / "a.tif", np.full((40, 48), 9, np.uint8), **UTM)
    elif change == "broken image":
        (folder / "image" / "a.tif").write_bytes(b"broken")
    else:
        network = random_network("none", window=32, classes=3)
        contract = Contract(32, ClassTable.numbered(3))
        path = tmp_path / "three.pt"
        save_checkpoint(path, Checkpoint(network.config, contract, network.state_dict()))
        models.append(path)
    found = bench(*models, scenes, "-o", tmp_path / "out")
    err = capsys.readouterr().err
    assert found == code, err
    assert part in err
    assert len(err.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_markdown_table_is_aligned() -> None:
    assert markdown_table(["a", "bb"], [["long", "1"], ["x", figure(None)]]).splitlines() == [
        "| a    | bb |",
        "|------|---:|",
        "| long |  1 |",
        "| x    |  - |",
    ]
