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
from support import RGBD, UTM, write_raster, write_scene

from mfnet.checkpoints.checkpoint import load_checkpoint, network_from_checkpoint
from mfnet.cli import main
from mfnet.training import train as train_module
from mfnet_runtime.errors import UsageError

Capture = pytest.CaptureFixture[str]
TINY = (
    "--backbone tiny --window 32 --optimizer adamw --lr 0.003 --epochs 3 --steps 4 --batch 2 "
    "--threads 1 --device cpu"
).split()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for seed, name in enumerate("ab"):
        write_scene(tmp_path / "scenes", name, 64, 64, seed=seed, label=True)
    return tmp_path / "scenes"


def train(*words: object) -> int:
    return main([str(word) for word in words])


def weights(path: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(path).weights


def test_writes_a_checkpoint_that_says_all(tmp_path: Path, folder: Path, capsys: Capture) -> None:
    run = tmp_path / "run"
    assert train(folder, "-o", run, "--from-scratch", *TINY) == 0
    out = capsys.readouterr().out
    assert "parameters train" in out
    assert f"mfnet-export --ckpt {run / 'best.pt'}" in out
    checkpoint = load_checkpoint(run / "best.pt")
    assert checkpoint.config.tuning == "lora"
    assert checkpoint.contract.window == 32
    assert len(checkpoint.contract.classes) == 4
    assert checkpoint.contract.provenance["rel_pos"] == "trained"
    assert checkpoint.training["config"]["optimizer"] == "adamw"
    assert checkpoint.metrics["mean_iou"] > 0
    with (run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    history = json.loads((run / "metrics.json").read_text())
    best = max(history, key=lambda row: row["mean_iou"])
    assert checkpoint.metrics["epoch"] == best["epoch"]
    assert sorted(os.listdir(run)) == ["best.pt", "last.pt", "metrics.csv", "metrics.json"]


def test_it_learns_colours_and_heights(tmp_path: Path) -> None:
    """Fields of 32 px, each of one class: red, green, blue, or grey and high."""
    fields = np.random.default_rng(3).integers(0, 4, (6, 6)).repeat(32, 0).repeat(32, 1)
    colours = np.array([(200, 30, 30), (30, 200, 30), (30, 30, 200), (90, 90, 90)], np.uint8)
    folder = tmp_path / "fields"
    write_raster(folder / "image/a.tif", colours[fields].transpose(2, 0, 1), **UTM)
    write_raster(folder / "dsm/a.tif", (fields == 3).astype(np.float32) * 20, **UTM)
    write_raster(folder / "label/a.tif", fields.astype(np.uint8), **UTM)
    words = [*TINY, *"--window 64 --epochs 4 --steps 25 --batch 4 --lr 0.01".split()]
    assert train(folder, "-o", tmp_path / "run", "--from-scratch", *words) == 0
    history = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert history[-1]["loss"] < 0.6 * history[0]["loss"]


@pytest.mark.parametrize("recipe", [[], ["--optimizer", "sgd", "--lr", "0.01"]])
def test_resume_equals_an_uninterrupted_run_bit_for_bit(
    tmp_path: Path, folder: Path, recipe: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--from-scratch", *TINY, *recipe]
    assert train(folder, "-o", tmp_path / "whole", *words) == 0
    finish = train_module.Trainer._finish_epoch

    def stop_after_two(self: Any, row: Any) -> None:
        finish(self, row)
        if self.epoch == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(train_module.Trainer, "_finish_epoch", stop_after_two)
        assert train(folder, "-o", tmp_path / "parts", *words) == 130
    assert train(folder, "-o", tmp_path / "parts", *words, "--resume") == 0
    whole, parts = weights(tmp_path / "whole/last.pt"), weights(tmp_path / "parts/last.pt")
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    for kind in ("loss", "mean_iou"):
        histories = [
            [row[kind] for row in json.loads((tmp_path / run / "metrics.json").read_text())]
            for run in ("whole", "parts")
        ]
        assert histories[0] == histories[1]


def test_resume_with_other_settings_names_the_setting(
    tmp_path: Path, folder: Path, capsys: Capture
) -> None:
    assert train(folder, "-o", tmp_path / "run", "--from-scratch", *TINY) == 0
    words = ["--from-scratch", *TINY, "--lr", "0.5", "--resume"]
    assert train(folder, "-o", tmp_path / "run", *words) == 2
    assert "its recipe has lr 0.003, requested is 0.5" in capsys.readouterr().err


def test_resume_on_other_data_is_refused(tmp_path: Path, folder: Path, capsys: Capture) -> None:
    assert train(folder, "-o", tmp_path / "run", "--from-scratch", *TINY) == 0
    for words, part in ((["--only", "a"], "scenes"), (["--holdout", "0.5"], "validation")):
        code = train(folder, "-o", tmp_path / "run", "--from-scratch", *TINY, *words, "--resume")
        assert code == 2
        assert f"its data has {part}" in capsys.readouterr().err


def test_resuming_a_finished_run_changes_nothing(tmp_path: Path, folder: Path) -> None:
    assert train(folder, "-o", tmp_path / "run", "--from-scratch", *TINY) == 0
    before = (tmp_path / "run/last.pt").read_bytes()
    assert train(folder, "-o", tmp_path / "run", "--from-scratch", *TINY, "--resume") == 0
    assert (tmp_path / "run/last.pt").read_bytes() == before


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
    label[rows] = 255  # rows 26 to 38 are held out
    write_raster(scene.label, label, nodata=255, **UTM)
    assert train(tmp_path / "blank", "-o", tmp_path / "run", "--from-scratch", *TINY) in (2, 4)
    assert part in capsys.readouterr().err
    assert not list((tmp_path / "run").glob("*.pt"))


def test_other_bands_are_named_by_number(tmp_path: Path, folder: Path) -> None:
    words = ["--from-scratch", *TINY, "--bands", "3,2,1"]
    assert train(folder, "-o", tmp_path / "run", *words) == 0
    contract = load_checkpoint(tmp_path / "run/best.pt").contract
    assert contract.image.bands == ("band 3", "band 2", "band 1")
    assert contract.provenance["bands"] == [3, 2, 1]


def test_a_batch_in_which_nothing_counts_costs_nothing(tmp_path: Path, folder: Path) -> None:
    words = ["--from-scratch", *TINY, "--class-weights", "0,0,0,1"]
    assert train(folder, "-o", tmp_path / "run", *words) == 0
    history = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert all(np.isfinite(row["loss"]) for row in history)


def test_a_kill_leaves_whole_checkpoints(tmp_path: Path, folder: Path) -> None:
    words = [str(folder), "-o", str(tmp_path / "run"), "--from-scratch", *TINY, "--epochs", "500"]
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
    json.loads((tmp_path / "run" / "metrics.json").read_text())


def write_sam(path: Path) -> Path:
    """A file in SAM's format for the tiny network."""
    source = random_network("none", window=32, classes=4).encoder.sam.state_dict()
    state = {f"image_encoder.{name}": value for name, value in source.items()}
    state["prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"] = torch.zeros(2, 128)
    torch.save(state, path)
    return path


@pytest.mark.parametrize("tuning", ["lora", "adapter"])
def test_fine_tuning_leaves_sam_as_it_was(
    tmp_path: Path, folder: Path, tuning: str, capsys: Capture
) -> None:
    sam = write_sam(tmp_path / "sam.pth")
    words = [*TINY, "--tuning", tuning, "--val", folder]
    assert train(folder, "-o", tmp_path / "run", "--sam", sam, *words) == 0
    assert "SAM tensors loaded" in capsys.readouterr().out
    trained, given = weights(tmp_path / "run/best.pt"), torch.load(sam, weights_only=True)
    names = [name for name in trained if name.startswith("encoder.sam.")]
    assert names
    for name in names:
        source = given["image_encoder." + name.removeprefix("encoder.sam.")]
        assert torch.equal(trained[name], source), name
    checkpoint = load_checkpoint(tmp_path / "run/best.pt")
    counts = checkpoint.training["parameters"]
    assert counts["frozen"] == sum(trained[name].numel() for name in names)
    assert 0 < counts["tuning"] < counts["trainable"]
    provenance = checkpoint.contract.provenance
    assert provenance["sam"] == "sam.pth"
    assert provenance["rel_pos"] == "sam"


def test_zero_rel_pos_is_recorded(tmp_path: Path, folder: Path) -> None:
    sam = write_sam(tmp_path / "sam.pth")
    words = ["--sam", sam, "--zero-rel-pos", *TINY]
    assert train(folder, "-o", tmp_path / "run", *words) == 0
    checkpoint = load_checkpoint(tmp_path / "run/best.pt")
    assert checkpoint.contract.provenance["rel_pos"] == "zero"
    tables = [value for name, value in checkpoint.weights.items() if "rel_pos" in name]
    assert tables
    assert not any(table.any() for table in tables)


def test_a_tuning_that_does_not_train_stops_the_run() -> None:
    network = random_network("lora", window=32, classes=4)
    for parameter in network.encoder.parameters():
        parameter.requires_grad_(False)
    with pytest.raises(UsageError, match="nothing of the tuning 'lora' is trainable"):
        train_module.require_trainable(network)
    network = random_network("none", window=32, classes=4)
    network.freeze_for_tuning()
    train_module.require_trainable(network)  # nothing to tune, the decoder trains


@pytest.mark.parametrize("weights", ["balanced", "1,1,2,0.5"])
def test_class_weights(tmp_path: Path, folder: Path, weights: str) -> None:
    words = ["--from-scratch", *TINY, "--class-weights", weights, "--clip", "1"]
    assert train(folder, "-o", tmp_path / "run", *words) == 0


def assert_refused(capsys: Capture, code: int, expected: int, *parts: str) -> None:
    err = capsys.readouterr().err
    assert code == expected, err
    assert len(err.strip().splitlines()) == 1, err
    for part in parts:
        assert part in err


@pytest.mark.parametrize(
    ("words", "code", "part"),
    [
        ([], 2, "--from-scratch to train everything"),
        (["--from-scratch", "--sam", "x.pth"], 2, "--from-scratch"),
        (["--sam", "none.pth"], 2, "none.pth"),
        (["--from-scratch", "--backbone", "vit_z"], 2, "known: vit_b"),
        (["--from-scratch", "--tuning", "ia3"], 2, "adapter, lora, none"),
        (["--from-scratch", "--window", "100"], 2, "multiple of 32"),
        (["--from-scratch", "--class-weights", "1,2"], 2, "4 numbers"),
        (["--from-scratch", "--bands", "1"], 2, "three band numbers"),
        (["--from-scratch", "--bands", "1,2,7"], 4, "the file has 3"),
        (["--from-scratch", "--holdout", "1"], 2, "--holdout is 1"),
        (["--from-scratch", "--dsm-rule", "range", "5", "5"], 3, "low 5.0 is not below high"),
        (["--from-scratch", "--only", "zebra"], 2, "no scene named 'zebra'; there are a, b"),
        (["--from-scratch", "--dataset", "vaihingen"], 2, "files are missing"),
        (["--from-scratch", "--dataset", "berlin"], 2, "vaihingen, potsdam, mmhunan"),
        (["--from-scratch", "--seed", "-1"], 2, "seed is -1"),
        (["--from-scratch", "--lr", "inf"], 2, "lr is inf"),
        (["--from-scratch", "--lr", "1e30"], 2, "the loss is"),
        (["--from-scratch", "--full-scale", "inf"], 3, "full scale is inf"),
        (["--from-scratch", "--dataset", "vaihingen", "--only", "a"], 2, "leave --only"),
        (["--from-scratch", "--lr", "0"], 2, "lr is 0"),
        (["--from-scratch", "--steps", "0"], 2, "steps is 0"),
        (["--from-scratch", "--device", "abacus"], 2, "no such device"),
        (["--from-scratch", "--jitter", "1"], 2, "jitter is 1"),
        (["--from-scratch", "--classes", "none.json"], 2, "none.json"),
        (["--from-scratch", "--resume"], 2, "nothing to resume"),
    ],
)
def test_bad_input(
    tmp_path: Path, folder: Path, capsys: Capture, words: list[str], code: int, part: str
) -> None:
    found = train(folder, "-o", tmp_path / "run", *TINY, *words)
    assert_refused(capsys, found, code, part)
    assert not list((tmp_path / "run").glob("*.pt"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_cuda_is_never_replaced_in_silence(tmp_path: Path, folder: Path, capsys: Capture) -> None:
    words = ["--from-scratch", *TINY, "--device", "cuda"]
    assert train(folder, "-o", tmp_path / "run", *words) == 2
    assert "PyTorch sees no CUDA device" in capsys.readouterr().err


def test_class_names_from_a_file(tmp_path: Path, folder: Path) -> None:
    file = tmp_path / "classes.json"
    file.write_text(json.dumps(RGBD.to_json()))
    words = [*TINY, "--classes", file]
    assert train(folder, "-o", tmp_path / "run", "--from-scratch", *words) == 0
    assert load_checkpoint(tmp_path / "run/best.pt").contract.classes == RGBD


def test_an_existing_run_is_not_overwritten(tmp_path: Path, folder: Path, capsys: Capture) -> None:
    assert train(folder, "-o", tmp_path / "run", "--from-scratch", *TINY) == 0
    before = (tmp_path / "run/best.pt").read_bytes()
    capsys.readouterr()
    code = train(folder, "-o", tmp_path / "run", "--from-scratch", *TINY)
    assert code == 2
    assert "add --resume" in capsys.readouterr().err
    assert (tmp_path / "run/best.pt").read_bytes() == before


def test_uint16_images_need_a_scale(tmp_path: Path, folder: Path, capsys: Capture) -> None:
    for name in "ab":
        image = np.random.default_rng(0).integers(0, 4000, (3, 64, 64)).astype(np.uint16)
        write_raster(folder / "image" / f"{name}.tif", image, **UTM)
    words = ["--from-scratch", *TINY]
    assert train(folder, "-o", tmp_path / "run", *words) == 2
    assert "with --full-scale" in capsys.readouterr().err
    assert train(folder, "-o", tmp_path / "run", *words, "--full-scale", "4000") == 0
    assert load_checkpoint(tmp_path / "run/best.pt").contract.image.full_scale == 4000
