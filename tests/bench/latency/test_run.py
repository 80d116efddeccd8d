"""`mfnet-bench latency`: a whole run on a tiny network, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from networks import write_checkpoint
from support import write_rgbd_model

from mfnet.config import config_from_preset
from mfnet_bench.cli import main
from mfnet_bench.latency import engines, gemm, run
from mfnet_bench.latency.networks import network_name, networks_from_request, precision_of
from mfnet_bench.latency.report import write_latency
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


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ONNX file that names the checkpoint beside it as its source; it copies its inputs."""
    folder = tmp_path_factory.mktemp("exported")
    checkpoint = write_checkpoint(folder / "best.pt", WINDOW, CLASSES)
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
    assert (out / "latency.png").stat().st_size > 10_000
    assert not list(out.glob(".*"))
    assert main(["table", str(out)]) == 0
    assert "| tiny lora |" in capsys.readouterr().out


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
    path = tmp_path / "latency.csv"
    path.write_text("a,b\n1,2\n")
    assert bench(exported, "-o", tmp_path) == 2
    assert "move it away" in capsys.readouterr().err
    with pytest.raises(UsageError, match="move it away"):  # written while the run was measured
        write_latency(tmp_path, LatencyRun("2026-11-22T10:00:00Z", {}, 3, "4 windows", []))
    assert path.read_text() == "a,b\n1,2\n"
    assert list(tmp_path.iterdir()) == [path]


def test_engines_are_matched_with_the_checkpoint_they_name(exported: Path, tmp_path: Path) -> None:
    beside = exported.with_suffix(".pt")
    other = write_checkpoint(tmp_path / "other.pt", WINDOW, CLASSES, seed=1)
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


def test_checkpoints_beside_a_file_may_have_a_dot_in_their_name(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "epoch37_0.8412", WINDOW, CLASSES)
    model = write_rgbd_model(tmp_path / "epoch37_0.8412.onnx", WINDOW)
    request = LatencyRequest(models=(model,), backends=("onnxruntime",))
    (network,) = networks_from_request(request)
    assert network.checkpoint == path.resolve()


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


def of_another_window(path: Path) -> None:
    write_rgbd_model(path, window=32)
    write_checkpoint(path.with_suffix(".pt"), WINDOW, CLASSES)


def of_other_classes(path: Path) -> None:
    write_rgbd_model(path, WINDOW)
    write_checkpoint(path.with_suffix(".pt"), WINDOW, classes=3)


def of_no_format(path: Path) -> None:
    path.write_text("text")
    write_checkpoint(path.with_suffix(".pt"), WINDOW, CLASSES)


@pytest.mark.parametrize(
    ("write", "code", "part"),
    [
        (lambda path: write_rgbd_model(path, WINDOW), 2, "x.onnx: no checkpoint beside it"),
        (of_another_window, 3, "x.onnx: has windows of 32 px, the baseline x.pt windows"),
        (of_other_classes, 3, "x.onnx: has 4 classes, the baseline x.pt 3 classes"),
        (of_no_format, 3, "x.onnx: starts with"),
    ],
)
def test_bad_files(
    tmp_path: Path, capsys: Capture, write: Callable[[Path], object], code: int, part: str
) -> None:
    path, out = tmp_path / "x.onnx", tmp_path / "out"
    write(path)
    assert bench(path, "--backends", "onnxruntime", "-o", out) == code
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert part in line
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
