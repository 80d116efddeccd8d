"""`mfnet-train` end to end on tiny scenes: learning, resuming, interrupts, bad input."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from networks import random_network
from rasterio.transform import from_origin
from support import RGBD, UTM, write_raster, write_scene

from mfnet.checkpoints.checkpoint import Checkpoint, load_checkpoint, network_from_checkpoint
from mfnet.cli import main
from mfnet.training.train import Trainer, require_trainable
from mfnet_runtime.errors import UsageError

Capture = pytest.CaptureFixture[str]
TINY = (
    "--backbone tiny --window 32 --stride 32 --optimizer adamw --lr 0.003 --epochs 2 --steps 3 "
    "--batch 2 --threads 1 --device cpu"
).split()
SCRATCH = ["--from-scratch", *TINY]


def train(*words: object) -> int:
    return main([str(word) for word in words])


def write_scenes(folder: Path) -> Path:
    for seed, name in enumerate("ab"):
        write_scene(folder, name, 64, 64, seed=seed, label=True)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenes, not to be changed."""
    return write_scenes(tmp_path_factory.mktemp("scenes"))


@pytest.fixture(scope="module")
def finished(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    run = tmp_path_factory.mktemp("finished") / "run"
    assert train(folder, "-o", run, *SCRATCH) == 0
    return run


def trained(run: Path, *words: object) -> Checkpoint:
    """The best checkpoint of a run with these words."""
    assert train(*words, "-o", run, *TINY) == 0
    return load_checkpoint(run / "best.pt")


def history(run: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((run / "metrics.json").read_text())
    return rows


def test_a_run_writes_checkpoints_and_metrics(finished: Path) -> None:
    checkpoint = load_checkpoint(finished / "best.pt")
    assert (checkpoint.config.tuning, checkpoint.contract.window) == ("lora", 32)
    assert len(checkpoint.contract.classes) == 4
    assert checkpoint.contract.provenance["rel_pos"] == "trained"
    assert checkpoint.training["config"]["optimizer"] == "adamw"
    assert checkpoint.metrics["mean_iou"] > 0
    with (finished / "metrics.csv").open() as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["1", "2"]
    best = max(history(finished), key=lambda row: float(row["mean_iou"]))
    assert checkpoint.metrics["epoch"] == best["epoch"]
    assert sorted(os.listdir(finished)) == ["best.pt", "last.pt", "metrics.csv", "metrics.json"]


def test_it_learns_colours_and_heights(tmp_path: Path) -> None:
    """Fields of 32 px, each of one class: red, green, blue, or grey and high."""
    fields = np.random.default_rng(3).integers(0, 4, (6, 6)).repeat(32, 0).repeat(32, 1)
    colours = np.array([(200, 30, 30), (30, 200, 30), (30, 30, 200), (90, 90, 90)], np.uint8)
    folder = tmp_path / "fields"
    write_raster(folder / "image/a.tif", colours[fields].transpose(2, 0, 1), **UTM)
    write_raster(folder / "dsm/a.tif", (fields == 3).astype(np.float32) * 20, **UTM)
    write_raster(folder / "label/a.tif", fields.astype(np.uint8), **UTM)
    words = "--window 64 --stride 64 --epochs 4 --steps 25 --batch 4 --lr 0.01".split()
    assert train(folder, "-o", tmp_path / "run", *SCRATCH, *words) == 0
    rows = history(tmp_path / "run")
    assert rows[-1]["loss"] < 0.6 * rows[0]["loss"]


@pytest.mark.parametrize("recipe", [[], ["--optimizer", "sgd", "--lr", "0.01"]])
def test_resume_equals_an_uninterrupted_run_bit_for_bit(
    tmp_path: Path, folder: Path, recipe: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*SCRATCH, "--epochs", "3", *recipe]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert train(folder, "-o", whole, *words) == 0
    finish = Trainer._finish_epoch

    def stop_after_two(self: Trainer, row: Any) -> None:
        finish(self, row)
        if self.epoch == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_finish_epoch", stop_after_two)
        assert train(folder, "-o", parts, *words) == 130
    assert train(folder, "-o", parts, *words, "--resume") == 0
    weights, others = (load_checkpoint(run / "last.pt").weights for run in (whole, parts))
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    for kind in ("loss", "mean_iou"):
        assert [row[kind] for row in history(whole)] == [row[kind] for row in history(parts)]


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--resume", "--lr", "0.5"], "its recipe has lr 0.003, requested is 0.5"),
        (["--resume", "--only", "a"], "its data has scenes"),
        (["--resume", "--holdout", "0.5"], "its data has validation"),
        (["--resume", "--tuning", "none"], "its network has tuning 'lora'"),
        (["--resume", "--dsm-rule", "range", "0", "9"], "its contract has dsm"),
        ([], "add --resume"),
    ],
)
def test_a_finished_run_is_only_resumed_with_the_same_settings(
    folder: Path, finished: Path, words: list[str], part: str, capsys: Capture
) -> None:
    before = (finished / "last.pt").read_bytes()
    assert train(folder, "-o", finished, *SCRATCH, *words) == 2
    assert part in capsys.readouterr().err
    assert train(folder, "-o", finished, *SCRATCH, "--resume") == 0  # nothing is left to do
    assert (finished / "last.pt").read_bytes() == before


@pytest.mark.parametrize(
    ("rows", "part"),
    [(slice(None), "no class in it"), (slice(24, 40), "validation scenes have no labelled pixel")],
)
def test_scenes_without_labels_to_learn_or_score(
    tmp_path: Path, rows: slice, part: str, capsys: Capture
) -> None:
    scene = write_scene(tmp_path / "blank", "a", 64, 64, label=True)
    assert scene.label is not None
    label = np.zeros((64, 64), np.uint8)
    label[:, 32:] = 1
    label[rows] = 255  # rows 26 to 38 are held out
    write_raster(scene.label, label, nodata=255, **UTM)
    assert train(tmp_path / "blank", "-o", tmp_path / "run", *SCRATCH) in (2, 4)
    assert part in capsys.readouterr().err
    assert not list((tmp_path / "run").glob("*.pt"))


def test_bands_classes_and_weights_as_asked(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "classes.json").write_text(json.dumps(RGBD.to_json()))
    words = ["--bands", "3,2,1", "--classes", tmp_path / "classes.json", "--clip", "1"]
    rare = ["--class-weights", "0,0,0,1"]  # batches in which nothing counts cost nothing
    contract = trained(tmp_path / "run", folder, "--from-scratch", *words, *rare).contract
    assert contract.image.bands == ("band 3", "band 2", "band 1")
    assert contract.provenance["bands"] == [3, 2, 1]
    assert contract.classes == RGBD
    assert all(np.isfinite(row["loss"]) for row in history(tmp_path / "run"))
    trained(tmp_path / "balanced", folder, "--from-scratch", "--class-weights", "balanced")


def test_a_kill_leaves_whole_checkpoints(tmp_path: Path, folder: Path) -> None:
    words = [str(folder), "-o", str(tmp_path / "run"), *SCRATCH, "--epochs", "500"]
    code = f"import sys; sys.path[:] = {sys.path!r}; from mfnet.cli import main; main({words!r})"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (tmp_path / "run" / "metrics.json").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.3)
    process.send_signal(signal.SIGKILL)
    process.wait()
    for name in ("best.pt", "last.pt"):
        network_from_checkpoint(load_checkpoint(tmp_path / "run" / name))
    assert history(tmp_path / "run")


@pytest.fixture(scope="module")
def sam(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file in SAM's format for the tiny network."""
    source = random_network("none", window=32, classes=4).encoder.sam.state_dict()
    state = {f"image_encoder.{name}": value for name, value in source.items()}
    state["prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"] = torch.zeros(2, 128)
    path = tmp_path_factory.mktemp("sam") / "sam.pth"
    torch.save(state, path)
    return path


@pytest.mark.parametrize("tuning", ["lora", "adapter"])
def test_fine_tuning_leaves_sam_unchanged(
    tmp_path: Path, folder: Path, sam: Path, tuning: str, capsys: Capture
) -> None:
    words = [folder, "--sam", sam, "--tuning", tuning, "--val", folder]
    checkpoint = trained(tmp_path / "run", *words)
    out, err = capsys.readouterr()
    assert "epoch 2/2  loss" in out
    assert "mfnet-export --ckpt" in out
    assert "SAM tensors loaded" in err
    assert "parameters train" in err
    weights, given = checkpoint.weights, torch.load(sam, weights_only=True)
    names = [name for name in weights if name.startswith("encoder.sam.")]
    assert names
    for name in names:
        source = given["image_encoder." + name.removeprefix("encoder.sam.")]
        assert torch.equal(weights[name], source), name
    counts = checkpoint.training["parameters"]
    assert counts["frozen"] == sum(weights[name].numel() for name in names)
    assert 0 < counts["tuning"] < counts["trainable"]
    provenance = checkpoint.contract.provenance
    assert (provenance["sam"], provenance["rel_pos"]) == ("sam.pth", "sam")


def test_zero_rel_pos_is_recorded(tmp_path: Path, folder: Path, sam: Path) -> None:
    checkpoint = trained(tmp_path / "run", folder, "--sam", sam, "--zero-rel-pos")
    assert checkpoint.contract.provenance["rel_pos"] == "zero"
    tables = [value for name, value in checkpoint.weights.items() if "rel_pos" in name]
    assert tables
    assert not any(table.any() for table in tables)


def test_a_tuning_that_does_not_train_stops_the_run() -> None:
    network = random_network("lora", window=32, classes=4)
    for parameter in network.encoder.parameters():
        parameter.requires_grad_(False)
    with pytest.raises(UsageError, match="nothing of the tuning 'lora' is trainable"):
        require_trainable(network)
    network = random_network("none", window=32, classes=4)
    network.freeze_for_tuning()
    require_trainable(network)  # nothing to tune, the decoder trains


@pytest.mark.parametrize(
    ("words", "code", "part"),
    [
        ("", 2, "--from-scratch to train everything"),
        ("--sam sam.pth --init best.pt", 2, "with --init CHECKPOINT, or --from-scratch"),
        ("--from-scratch --sam x.pth", 2, "--from-scratch"),
        ("--from-scratch --zero-rel-pos", 2, "--zero-rel-pos is about SAM's weights; add --sam"),
        ("--sam none.pth", 2, "none.pth"),
        ("--from-scratch --backbone vit_z", 2, "known: vit_b"),
        ("--from-scratch --tuning ia3", 2, "adapter, lora, none"),
        ("--from-scratch --window 100", 2, "multiple of 32"),
        ("--from-scratch --class-weights 1,2", 2, "4 numbers"),
        ("--from-scratch --bands 1", 2, "three band numbers"),
        ("--from-scratch --bands 1,2,7", 4, "the file has 3"),
        ("--from-scratch --holdout 1", 2, "--holdout is 1"),
        ("--from-scratch --dsm-rule range 5 5", 3, "low 5.0 is not below high"),
        ("--from-scratch --only zebra", 2, "no scene named 'zebra'; there are a, b"),
        ("--from-scratch --dataset vaihingen", 2, "files are missing"),
        ("--from-scratch --dataset berlin", 2, "vaihingen, potsdam, mmhunan"),
        ("--from-scratch --seed -1", 2, "seed is -1"),
        ("--from-scratch --lr inf", 2, "lr is inf"),
        ("--from-scratch --lr 1e30", 2, "the loss is"),
        ("--from-scratch --full-scale inf", 3, "full scale is inf"),
        ("--from-scratch --dataset vaihingen --only a", 2, "leave --only"),
        ("--from-scratch --steps 0", 2, "steps is 0"),
        ("--from-scratch --resample-to model", 2, "give the pixel size in metres"),
        ("--from-scratch --device abacus", 2, "no such device"),
        ("--from-scratch --jitter 1", 2, "jitter is 1"),
        ("--from-scratch --classes none.json", 2, "none.json"),
        ("--from-scratch --resume", 2, "nothing to resume"),
        pytest.param(
            "--from-scratch --device cuda",
            2,
            "PyTorch sees no CUDA device",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device"),
        ),
    ],
)
def test_bad_input_is_one_line(
    tmp_path: Path, folder: Path, capsys: Capture, words: str, code: int, part: str
) -> None:
    found = train(folder, "-o", tmp_path / "run", *TINY, *words.split())
    err = capsys.readouterr().err
    assert found == code, err
    *facts, error = err.splitlines()
    assert error.startswith("error: ")
    assert part in error
    assert not any("error" in fact for fact in facts)
    assert not list((tmp_path / "run").glob("*.pt"))


def test_the_median_of_the_pixel_sizes_is_recorded(tmp_path: Path, capsys: Capture) -> None:
    """Of the scenes that state it, in metres on the ground; others of another size are named."""
    places: dict[str, dict[str, Any]] = {
        "feet": {"crs": "EPSG:2225", "transform": from_origin(6e6, 2e6, 2, 2)},
        "degrees": {"crs": "EPSG:4326", "transform": from_origin(9, 0, 9e-6, 9e-6)},
        "metres": {"crs": "EPSG:32632", "transform": from_origin(5e5, 5.4e6, 0.5, 0.5)},
        "nowhere": {},
    }
    for name, place in places.items():
        write_scene(tmp_path / "scenes", name, 64, 64, label=True, place=place)
    checkpoint = trained(tmp_path / "run", tmp_path / "scenes", "--from-scratch")
    assert checkpoint.contract.pixel_size == pytest.approx(2400 / 3937, rel=1e-5)
    err = capsys.readouterr().err
    assert "degrees: " in err
    assert "pixels are 0.999 m on the ground, the model was trained on 0.61 m" in err
    assert "metres: " not in err


def test_scenes_are_read_at_another_pixel_size(
    tmp_path: Path, folder: Path, capsys: Capture
) -> None:
    words = [folder, "--from-scratch", "--resample-to", "0.8"]
    assert trained(tmp_path / "run", *words).contract.pixel_size == 0.8
    err = capsys.readouterr().err
    assert "64 x 64 px of 0.5 metre (EPSG:32632), is read as 40 x 40 px of 0.8 metre" in err
    assert "warning" not in err


def test_uint16_images_need_a_scale(tmp_path: Path, capsys: Capture) -> None:
    folder = write_scenes(tmp_path / "scenes")
    for name in "ab":
        image = np.random.default_rng(0).integers(0, 4000, (3, 64, 64)).astype(np.uint16)
        write_raster(folder / "image" / f"{name}.tif", image, **UTM)
    assert train(folder, "-o", tmp_path / "run", *SCRATCH) == 2
    assert "with --full-scale" in capsys.readouterr().err
    checkpoint = trained(tmp_path / "run", folder, "--from-scratch", "--full-scale", "4000")
    assert checkpoint.contract.image.full_scale == 4000
