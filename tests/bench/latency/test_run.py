"""`mfnet-bench latency`: a whole run on a tiny network, and what it refuses."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from networks import random_network
from support import write_rgbd_model

from mfnet.checkpoints.checkpoint import Checkpoint, save_checkpoint
from mfnet.config import config_from_preset
from mfnet_bench.cli import main
from mfnet_bench.latency import engines, gemm, run
from mfnet_bench.latency.networks import network_name, networks_from_request, precision_of
from mfnet_bench.latency.report import COLUMNS
from mfnet_bench.latency.request import LatencyRequest
from mfnet_bench.latency.run import LatencyRun
from mfnet_runtime.contract import Contract
from mfnet_runtime.errors import ModelError, UsageError
from mfnet_runtime.files import sha256_from_file
from mfnet_runtime.labels import ClassTable

WINDOW, CLASSES = 64, 4
Capture = pytest.CaptureFixture[str]


def bench(*words: object) -> int:
    return main(["latency", *(str(word) for word in words)])


def write_checkpoint(path: Path, seed: int = 0, classes: int = CLASSES) -> Path:
    network = random_network("lora", window=WINDOW, classes=classes, seed=seed)
    contract = Contract(WINDOW, ClassTable.numbered(classes))
    save_checkpoint(path, Checkpoint(network.config, contract, network.state_dict()))
    return path


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ONNX file beside the checkpoint it says it is from; in truth it copies its inputs."""
    checkpoint = write_checkpoint(tmp_path_factory.mktemp("exported") / "best.pt")
    named = {"checkpoint_sha256": sha256_from_file(checkpoint)}
    return write_rgbd_model(checkpoint.with_suffix(".onnx"), WINDOW, provenance=named)


def test_a_whole_run(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    products = {("onnxruntime", "fp32"): gemm.products_on("cpu")["onnxruntime", "fp32"]}
    monkeypatch.setattr(gemm, "products_on", lambda device: products)
    monkeypatch.setattr(gemm, "SQUARE", {"cpu": 128})
    monkeypatch.setattr(engines, "TURN_S", 0.01)
    options = "--backends onnxruntime --batches 2,1 --baseline-batch 1 --rounds 3 --no-compile"
    out = tmp_path / "out"
    assert bench(exported, *options.split(), "--windows", 1, "--threads", 1, "-o", out) == 0
    table = capsys.readouterr().out
    assert "| best.onnx |     onnxruntime |      fp32 |     1 |" in table
    assert "best.onnx, onnxruntime bf16, batch 1: not run: " in table
    (saved,) = out.glob("latency-*.json")
    found = json.loads(saved.read_text())
    rows = {(row["backend"], row["precision"], row["batch"]): row for row in found["rows"]}
    assert len(rows) == 2 + 4  # PyTorch at its batch; ONNX Runtime in fp32 and bf16
    for (backend, precision, _), row in rows.items():
        assert row["network"] == "tiny lora"
        if precision == "bf16":
            assert row["refused"]
            assert row["median_ms"] is None
            continue
        assert row["refused"] is None
        assert 0 < row["median_ms"] <= row["p95_ms"]
        assert row["windows_per_s"] == pytest.approx(1000 / row["median_ms"])
        assert row["mpx_per_s"] == pytest.approx(row["windows_per_s"] * WINDOW**2 / 1e6)
        assert 0 <= row["agreement"] <= 1
        reached = row["gflop_per_s"] / row["ceiling_gflop_per_s"]
        assert row["ceiling_fraction"] == pytest.approx(reached)
        assert row["ceiling_gflop_per_s"] > 0
        assert row["ratio_published"] > 0
        assert row["ratio_compiled"] is None
        assert row["rounds"] == len(row["ms"]) == 3
        assert row["file_mb"] > 0
        assert row["load_s"] > 0
        if backend == "torch published":
            assert row["ratio_published"] == row["agreement"] == 1.0
            assert row["gflop"] > 0
    check_csv(out, found)
    assert (out / "latency.png").stat().st_size > 10_000
    assert not list(out.glob(".*"))
    assert main(["table", str(out)]) == 0
    assert "| tiny lora |" in capsys.readouterr().out


def check_csv(out: Path, found: dict[str, Any]) -> None:
    """A line per row, as in the JSON."""
    with (out / "latency.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert tuple(lines[0]) == COLUMNS
    assert [line["backend"] for line in lines] == [row["backend"] for row in found["rows"]]
    assert lines[0]["torch"] == found["machine"]["torch"]
    assert float(lines[0]["median_ms"]) == found["rows"][0]["median_ms"]


def test_json_is_the_whole_run(
    exported: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    found = LatencyRun("2026-11-22T10:00:00Z", {"cpu": "one"}, 3, "4 windows", [])
    monkeypatch.setattr(run, "measure", lambda request: found)
    assert bench(exported, "--json") == 0
    assert json.loads(capsys.readouterr().out) == found.to_dict()


def test_a_table_that_cannot_grow_is_refused_first(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr(run, "measure", lambda _: pytest.fail("measured in vain"))
    (tmp_path / "latency.csv").write_text("a,b\n")
    assert bench(exported, "-o", tmp_path) == 2
    assert "move it away" in capsys.readouterr().err


def test_engines_are_matched_with_the_checkpoint_they_name(exported: Path, tmp_path: Path) -> None:
    other, beside = write_checkpoint(tmp_path / "other.pt", seed=1), exported.with_suffix(".pt")
    request = LatencyRequest(
        models=(exported,), baselines=(other, beside), backends=("onnxruntime",), batches=(2,)
    )
    (network,) = networks_from_request(request)  # nothing is compared with the other
    assert network.checkpoint == beside.resolve()
    assert [spec.precision for spec in network.engines] == ["fp32", "bf16"]
    assert [spec.kind for spec in network.baselines] == ["published", "mfnet", "compiled"]
    gflop = [spec.gflop for spec in network.baselines]
    assert gflop[0] == gflop[2] > gflop[1]  # the published order pads
    request = replace(request, baselines=(), compiled=False, batches=(1, 2), baseline_batch=1)
    (network,) = networks_from_request(request)
    assert {spec.batch for spec in network.engines} == {1, 2}
    assert network.checkpoint == beside.resolve()
    assert len(network.baselines) == 2
    (network,) = networks_from_request(replace(request, models=(beside,)))
    assert network.engines == ()
    with pytest.raises(ModelError, match=r"best\.onnx: was exported from .* --baseline"):
        networks_from_request(replace(request, baselines=(other,)))


def test_on_a_gpu_every_file_runs_in_its_own_precision(exported: Path) -> None:
    half = write_rgbd_model(exported.with_suffix(".fp16.onnx"), WINDOW, precision="fp16")
    request = LatencyRequest(models=(half,), device="cuda", batches=(8,))
    (network,) = networks_from_request(request)
    assert [(spec.backend, spec.precision) for spec in network.engines] == [("onnxruntime", "fp16")]
    assert [(spec.kind, spec.precision) for spec in network.baselines] == [
        ("published", "fp32"), ("mfnet", "fp32"), ("autocast", "fp16"), ("compiled", "fp16"),
    ]  # fmt: skip
    with pytest.raises(UsageError, match=r"tensorrt: none of these runs it .* cuda"):
        networks_from_request(replace(request, backends=("tensorrt",)))


def lonely(folder: Path, exported: Path) -> list[Path]:
    path = folder / "moved.onnx"
    path.write_bytes(exported.read_bytes())
    return [path]


def of_another_window(folder: Path, exported: Path) -> list[Path]:
    write_checkpoint(folder / "rgbd.pt")
    return [write_rgbd_model(folder / "rgbd.onnx", 32)]


def of_other_classes(folder: Path, exported: Path) -> list[Path]:
    write_checkpoint(folder / "rgbd.pt", classes=3)
    return [write_rgbd_model(folder / "rgbd.onnx", WINDOW)]


def no_model_at_all(folder: Path, exported: Path) -> list[Path]:
    (folder / "text.onnx").write_text("text")
    return [folder / "text.onnx", exported.with_suffix(".pt")]


@pytest.mark.parametrize(
    ("made", "code", "part"),
    [
        (lonely, 2, "moved.onnx: no checkpoint beside it"),
        (of_another_window, 3, "rgbd.onnx: has windows of 32 px, the baseline rgbd.pt windows"),
        (of_other_classes, 3, "rgbd.onnx: has 4 classes, the baseline rgbd.pt 3 classes"),
        (no_model_at_all, 3, "text.onnx: starts with"),
    ],
)
def test_bad_files(
    exported: Path,
    tmp_path: Path,
    capsys: Capture,
    made: Callable[[Path, Path], list[Path]],
    code: int,
    part: str,
) -> None:
    out = tmp_path / "out"
    assert bench(*made(tmp_path, exported), "--backends", "onnxruntime", "-o", out) == code
    err = capsys.readouterr().err
    assert part in err
    assert len(err.strip().splitlines()) == 1
    assert not out.exists()


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ("--baseline nowhere.pt", "nowhere.pt: no such model file"),
        ("--backends tensorflow", "'tensorflow': expected some of openvino, onnxruntime"),
        ("--precisions fp64", "--precisions 'fp64'"),
        ("--device cuda --precisions bf16", "--precisions 'bf16': expected some of fp32"),
        ("--batches ,", "batches []"),
        ("--batches 1,0", "batches [1, 0]"),
        ("--batches one", "--batches 'one': expected whole numbers"),
        ("--baseline-batch 0", "batches"),
        ("--rounds 0", "--rounds 0"),
        ("--windows 0", "--windows 0"),
    ],
)
def test_bad_options(exported: Path, capsys: Capture, words: str, part: str) -> None:
    assert bench(exported, *words.split()) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert part in line


def test_names() -> None:
    assert network_name(config_from_preset("vit_b", classes=5, tuning="adapter")) == "vit_b adapter"
    config = replace(config_from_preset("tiny", classes=2), depth=3)
    assert network_name(config) == "32x3 lora"
    fp32 = Contract(64, ClassTable.numbered(2))
    int8 = replace(fp32, precision="int8")
    assert [precision_of(fp32, asked) for asked in ("fp32", "bf16")] == ["fp32", "bf16"]
    assert [precision_of(int8, asked) for asked in ("fp32", "bf16")] == ["int8", "int8+bf16"]
