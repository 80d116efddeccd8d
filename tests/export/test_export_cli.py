"""`mfnet-export` end to end. The fault matrix has damaged and foreign checkpoints."""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
import torch
from networks import (
    INDEX,
    official_state,
    onnx_with_weights,
    random_network,
    reference_state,
    reference_windows,
    use_export,
)
from support import write_scene

import mfnet_export.export
import mfnet_export.rewrites.steps
from mfnet.checkpoints.checkpoint import load_checkpoint, network_from_checkpoint
from mfnet_bench.latency.baseline import PublishedMFNet
from mfnet_export.cli import main
from mfnet_export.export import load_for_export, onnx_beside
from mfnet_export.options import ExportOptions
from mfnet_export.rewrites.steps import STEPS
from mfnet_runtime.backends import backend_from_file
from mfnet_runtime.contract import METADATA_KEY, Contract
from mfnet_runtime.errors import UsageError
from mfnet_runtime.labels import ISPRS

if TYPE_CHECKING:
    from export.conftest import Made

Capture = pytest.CaptureFixture[str]
THREE_NAMES = [{"name": name, "colour": [index, 0, 0]} for index, name in enumerate("abc")]


def run(*words: object) -> int:
    return main([str(word) for word in words])


def assert_refused(capsys: Capture, code: int, expected: int, *parts: str) -> None:
    """Expect an exit code and one line on standard error, without a traceback."""
    captured = capsys.readouterr()
    assert code == expected, captured.err
    errors = [line for line in captured.err.splitlines() if "error:" in line.lower()]
    assert len(errors) == 1
    assert "Traceback" not in captured.err
    assert not captured.out
    for part in parts:
        assert part in errors[0]


def rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.square(values).mean()))


def test_report(made: Made) -> None:
    report, parity = made.report, made.report["parity"]
    assert report["output"] == str(made.onnx)
    assert report["bytes"] == made.onnx.stat().st_size
    names = [step["name"] for step in report["rewrites"]]
    assert names == [step.name for step in STEPS if step.name != "zero-tables"]
    assert parity["passed"]
    assert parity["batches"] == [1, 2, 3]
    assert parity["windows"] == 6
    assert parity["source"] == "4 of a synthetic town, 2 of noise"
    assert parity["max_abs"] < 1e-4
    assert parity["clear_agreement"] == 1


@pytest.mark.parametrize(
    "name",
    [  # by default another tuning than `made`, with tables
        pytest.param(name, marks=() if name == "adapter_relpos_7cls" else pytest.mark.slow)
        for name in sorted(INDEX)
    ],
)
def test_official_files_export_and_give_the_official_logits(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mfnet_export.rewrites.steps, "gflop_from_network", lambda _: 1.0)
    path = tmp_path / "official.pth"
    torch.save(reference_state(name), path)
    window = INDEX[name].get("window", 256)
    flags = ["--window", window] if window != 256 else []
    assert run("--ckpt", path, "--windows", 1, *flags) == 0
    image, dsm, _ = reference_windows(name, torch.float32)
    exact = reference_windows(name, torch.float64)[2].numpy()
    checkpoint = load_checkpoint(path, window=window)
    with torch.no_grad():
        published = PublishedMFNet(network_from_checkpoint(checkpoint).eval())(image, dsm).numpy()
    ranked = np.sort(exact, axis=1)
    decided = ranked[:, -1] - ranked[:, -2] > 1e-3
    for engine in ("onnxruntime", "openvino"):
        with backend_from_file(tmp_path / "official.onnx", engine, threads=1) as backend:
            logits = backend.infer({"image": image.numpy(), "dsm": dsm.numpy()})["logits"]
        assert np.abs(logits - exact).max() < 1e-4
        assert rms(logits - exact) <= 1.5 * rms(published - exact)
        assert (logits.argmax(1) == exact.argmax(1))[decided].all()
    assert sorted(os.listdir(tmp_path)) == ["official.onnx", "official.pth"]


@pytest.mark.usefixtures("cheap")
def test_report_as_text_replaces_the_old_file(
    best: Path, capsys: Capture, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    out = best.with_name("net.onnx")
    out.write_text("old")
    assert run("--ckpt", best, "-o", out) == 0
    lines = capsys.readouterr().out.splitlines()
    assert re.match(r"rewrites  merge-tuning +fine-tuning folded into the weights$", lines[0])
    assert "query-scale" in "\n".join(lines[1:5])
    assert "          1.00 -> 1.00 GFLOP per window" in lines
    assert lines[-1] == f"next: mfnet-run {out} SCENES -o OUT"
    assert "same class  100 % of all pixels" in "\n".join(lines)
    assert caplog.messages == ["loading best.pt", "exporting to ONNX", "comparing on 6 windows"]
    assert {prop.key for prop in onnx.load(out).metadata_props} == {METADATA_KEY}
    assert sorted(os.listdir(best.parent)) == ["best.pt", "net.onnx"]


@pytest.mark.usefixtures("cheap")
def test_what_an_official_file_does_not_state_is_printed(
    made: Made, tmp_path: Path, capsys: Capture
) -> None:
    path = tmp_path / "UNetformer_epoch37_0.8412"
    torch.save({"model": official_state(made.network)}, path)
    assert run("--ckpt", path, "--window", 64, "--windows", 1) == 0
    text = capsys.readouterr().out
    assert "assumed   bands red, green, blue: --dataset\n" in text
    assert "classes class_0, class_1, class_2, by their number: --dataset or --classes\n" in text
    assert "pixel size unknown\n" in text
    assert "--window" not in text
    assert (tmp_path / f"{path.name}.onnx").is_file()


def test_the_dataset_of_an_official_file(tmp_path: Path) -> None:
    path = tmp_path / "official"
    torch.save(official_state(random_network("none", classes=6)), path)
    options = ExportOptions(window=64, dataset="vaihingen")
    contract = load_for_export(path, options).contract
    assert contract.image.bands == ("near infrared", "red", "green")
    assert (contract.pixel_size, contract.classes) == (0.09, ISPRS)
    assert load_for_export(path, replace(options, dataset="potsdam")).contract.pixel_size == 0.05
    with pytest.raises(UsageError, match="--dataset mmhunan: has 7 classes, official has 6"):
        load_for_export(path, replace(options, dataset="mmhunan"))


def test_a_dataset_is_for_official_checkpoints(best: Path, capsys: Capture) -> None:
    code = run("--ckpt", best, "--dataset", "potsdam")
    assert_refused(capsys, code, 2, "best.pt: states its bands and classes; leave --dataset out")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("best.pt", "best.onnx"),
        ("best.safetensors", "best.onnx"),
        ("UNetformer_epoch37_0.8412", "UNetformer_epoch37_0.8412.onnx"),
        ("UNetformer_epoch37_0.8412.pth", "UNetformer_epoch37_0.8412.onnx"),
    ],
)
def test_the_output_keeps_the_name_of_the_checkpoint(name: str, expected: str) -> None:
    assert onnx_beside(Path("runs", name)) == Path("runs", expected)


def test_one_file_is_given_with_or_without_its_option(best: Path, capsys: Capture) -> None:
    assert_refused(capsys, run(best.with_name("no.pt")), 2, "no.pt: no such file")
    for words in ([], [best, "--ckpt", best], [best, "--onnx", best, "--plan"]):
        assert_refused(capsys, run(*words), 2, "give either a checkpoint, FILE or --ckpt, or an")


@pytest.mark.usefixtures("cheap")
def test_parity_on_real_scenes(best: Path, tmp_path: Path, capsys: Capture) -> None:
    write_scene(tmp_path / "scenes", "a", 100, 200)
    words = ("--ckpt", best, "--scenes", tmp_path / "scenes", "--windows", 2, "--bands", "3,2,1")
    assert run(*words, "--json") == 0
    parity = json.loads(capsys.readouterr().out)["parity"]
    assert (parity["source"], parity["windows"]) == ("2 of scenes, 2 of noise", 4)


def test_classes_file_replaces_the_table(
    best: Path,
    tmp_path: Path,
    made: Made,
    cheap: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
) -> None:
    seen = []

    def write(network: object, contract: Contract, path: Path) -> Contract:
        seen.append(contract.classes.names)
        shutil.copy(made.onnx, path)
        return contract

    monkeypatch.setattr(mfnet_export.export, "onnx_from_network", write)
    classes = tmp_path / "classes.json"
    classes.write_text(json.dumps(THREE_NAMES))
    assert run("--ckpt", best, "--classes", classes) == 0
    assert seen == [("a", "b", "c")]
    capsys.readouterr()
    for text, part in (
        (json.dumps(THREE_NAMES[:2]), "has 2 classes, best.pt has 3"),
        ("{", "expected a JSON list of"),
        ('["tree"]', "expected a JSON list of"),
    ):
        classes.write_text(text)
        assert_refused(capsys, run("--ckpt", best, "--classes", classes), 2, "classes.json", part)
    classes.unlink()
    assert_refused(capsys, run("--ckpt", best, "--classes", classes), 2, "No such file")


@pytest.mark.parametrize("scale", [1.01, float("nan")])
def test_failed_parity_leaves_the_old_file(
    best: Path,
    made: Made,
    cheap: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
    scale: float,
) -> None:
    def scaled(path: Path) -> None:
        head = "segmentation_head.2.0.weight"
        onnx_with_weights(made.onnx, path, **{head: lambda weight: weight.__imul__(scale)})

    use_export(monkeypatch, scaled)
    old = best.with_name("best.onnx")
    old.write_text("old")
    code = run("--ckpt", best)
    assert_refused(capsys, code, 3, "best.pt: not exported, logits differ by up to", "allowed")
    assert old.read_text() == "old"
    assert sorted(os.listdir(best.parent)) == ["best.onnx", "best.pt"]


@pytest.mark.parametrize(
    ("fault", "expected", "part"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (OSError(28, "No space left on device"), 5, "No space left"),
        (MemoryError(), 5, "out of memory"),
    ],
)
def test_faults_midway_leave_nothing(
    best: Path,
    cheap: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
    fault: BaseException,
    expected: int,
    part: str,
) -> None:
    def fail(path: Path) -> None:
        path.write_text("half")
        raise fault

    use_export(monkeypatch, fail)
    assert_refused(capsys, run("--ckpt", best), expected, part)
    assert os.listdir(best.parent) == ["best.pt"]


def test_missing_files_and_unusable_outputs(best: Path, tmp_path: Path, capsys: Capture) -> None:
    whole = best.read_bytes()
    assert_refused(capsys, run("--ckpt", tmp_path / "no.pt"), 2, "no.pt: no such file")
    assert_refused(capsys, run("--ckpt", tmp_path), 2, "no such file")
    code = run("--ckpt", best, "--scenes", tmp_path / "nowhere")
    assert_refused(capsys, code, 2, "nowhere")
    (tmp_path / "same.onnx").symlink_to(best)
    (tmp_path / "folder.onnx").mkdir()
    for output, part in (
        ("absent/best.onnx", "absent: not a folder; create it"),
        ("folder.onnx", "folder.onnx: is a folder"),
        ("best.pt", "is the checkpoint itself"),
        ("same.onnx", "is the checkpoint itself"),
        ("best.pb", "expected a name ending in .onnx"),
        ("best.fp16.onnx", "leave .fp16 out"),
    ):
        code = run("--ckpt", best, "--fp16", "-o", tmp_path / output)
        assert_refused(capsys, code, 2, part)
    assert sorted(os.listdir(tmp_path)) == ["best.pt", "folder.onnx", "same.onnx"]
    assert best.read_bytes() == whole


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ("--window 128", "was trained for windows of 64 px, not 128"),
        ("--no-rewrite fuse", "no rewrite named fuse; choose from merge-tuning"),
        ("--windows 0", "'--windows': 0 is not in the range"),
        ("--bands 1,2", "three band numbers"),
        ("--max-disagree 2", "--max-disagree goes with --fp16 or --int8; add one"),
        ("--max-drop 1", "--max-drop goes with --fp16 or --int8; add one"),
        ("--fp16 --max-disagree 101", "'--max-disagree': 101.0 is not in the range"),
        ("--int8 --calibrate {} --max-drop -1", "'--max-drop': -1.0 is not in the range"),
        ("--int8", "name scenes with --calibrate SCENES"),
        ("--fp16 --calibrate {}", "--calibrate goes with --int8; add it or leave it out"),
        ("--calibration-windows 9", "--calibration-windows goes with --int8"),
        ("--int8 --calibrate {} --calibration-windows 3", "expected at least 8"),
        ("--int8 --calibrate nowhere", "nowhere"),
    ],
)
def test_bad_options(
    best: Path, tmp_path: Path, cheap: None, capsys: Capture, words: str, part: str
) -> None:
    write_scene(tmp_path / "scenes", height=32, width=32)
    code = run("--ckpt", best, *words.format(tmp_path / "scenes").split())
    assert_refused(capsys, code, 2, part)
    assert sorted(os.listdir(tmp_path)) == ["best.pt", "scenes"]
