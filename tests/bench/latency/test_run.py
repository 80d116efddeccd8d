"""`mfnet-bench latency`: one whole run on a tiny network, and what it refuses."""

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
from mfnet_bench.latency import engines as latency_engines
from mfnet_bench.latency import peak_gemm as ceiling
from mfnet_bench.latency import run as latency
from mfnet_bench.latency.networks import network_name, networks_from_request, precision_of
from mfnet_bench.latency.report import COLUMNS
from mfnet_bench.latency.request import LatencyRequest
from mfnet_bench.latency.run import LatencyRun
from mfnet_export.export import ExportRequest
from mfnet_export.export import exported as exported_from
from mfnet_runtime.contract import Contract
from mfnet_runtime.errors import MFNetError, ModelError, UsageError
from mfnet_runtime.labels import ClassTable

WINDOW, CLASSES = 64, 3
Capture = pytest.CaptureFixture[str]


def bench(*words: object) -> int:
    return main(["latency", *(str(word) for word in words)])


def write_checkpoint(path: Path, seed: int = 0, window: int = WINDOW) -> Path:
    network = random_network("lora", window=window, classes=CLASSES, seed=seed)
    contract = Contract(window, ClassTable.numbered(CLASSES))
    save_checkpoint(path, Checkpoint(network.config, contract, network.state_dict()))
    return path


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ONNX file beside the checkpoint it says it is from."""
    checkpoint = write_checkpoint(tmp_path_factory.mktemp("exported") / "best.pt")
    return exported_from(ExportRequest(checkpoint, windows=1)).output


def test_a_whole_run(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr(ceiling, "SQUARE", 128)
    monkeypatch.setattr(ceiling, "LIBRARIES", ("numpy", "onnxruntime"))
    monkeypatch.setattr(latency_engines, "TURN_S", 0.01)
    options = "--backends onnxruntime --batches 2,1 --baseline-batch 1 --rounds 3 --no-compile"
    out = tmp_path / "out"
    assert bench(exported, *options.split(), "--windows", 1, "--threads", 1, "-o", out) == 0
    table = capsys.readouterr().out
    assert "| best.onnx |     onnxruntime |      fp32 |     1 |" in table
    assert "best.onnx, onnxruntime bf16, batch 1: not run: " in table
    (saved,) = out.glob("latency-*.json")
    run = json.loads(saved.read_text())
    rows = {(row["backend"], row["precision"], row["batch"]): row for row in run["rows"]}
    assert len(rows) == 2 + 4  # PyTorch at its best batch; ONNX Runtime in fp32 and bf16
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
        assert row["agreement"] > 0.999
        assert row["logit_difference"] < 1e-4
        assert 0 < row["gflop"] < 1
        reached = row["gflop_per_s"] / row["ceiling_gflop_per_s"]
        assert row["ceiling_fraction"] == pytest.approx(reached)
        assert row["ceiling_gflop_per_s"] > 0
        assert row["ratio_published"] > 0
        assert row["ratio_compiled"] is None
        assert row["rounds"] == len(row["ms"]) == 3
        assert row["file_mb"] > 0.1
        assert row["load_s"] > 0
        if backend == "torch published":
            assert row["ratio_published"] == 1.0
            assert row["logit_difference"] < 1e-5  # another batch may round otherwise
    published = next(row for row in run["rows"] if row["backend"] == "torch published")
    assert published["gflop"] > rows["onnxruntime", "fp32", 1]["gflop"]  # it pads
    check_csv(out, run)
    assert (out / "latency.png").stat().st_size > 10_000
    assert not list(out.glob(".*"))
    assert main(["table", str(out)]) == 0
    assert "| tiny lora |" in capsys.readouterr().out


def check_csv(out: Path, run: dict[str, Any]) -> None:
    """A line a row, as in the JSON."""
    with (out / "latency.csv").open() as file:
        found = list(csv.DictReader(file))
    assert tuple(found[0]) == COLUMNS
    assert [line["backend"] for line in found] == [row["backend"] for row in run["rows"]]
    assert found[0]["torch"] == run["machine"]["torch"]
    assert float(found[-3]["median_ms"] or 0) == (run["rows"][-3]["median_ms"] or 0)


def test_json_is_the_whole_run(
    exported: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    run = LatencyRun("2026-11-22T10:00:00Z", {"cpu": "one"}, 3, "4 windows", [])
    monkeypatch.setattr(latency, "measured", lambda request, tell: run)
    assert bench(exported, "--json") == 0
    assert json.loads(capsys.readouterr().out) == run.to_dict()


def test_a_table_that_cannot_grow_is_refused_first(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr(latency, "measured", lambda *_: pytest.fail("measured in vain"))
    (tmp_path / "latency.csv").write_text("a,b\n")
    assert bench(exported, "-o", tmp_path) == 2
    assert "move it away" in capsys.readouterr().err


def test_engines_are_matched_with_the_checkpoint_they_name(exported: Path, tmp_path: Path) -> None:
    other = write_checkpoint(tmp_path / "other.pt", seed=1)
    beside = exported.with_suffix(".pt")
    request = LatencyRequest(
        models=(exported,), baselines=(other, beside), backends=("onnxruntime",), batches=(2,)
    )
    (network,) = networks_from_request(request)  # nothing is compared with the other
    assert network.checkpoint == beside.resolve()
    assert [spec.precision for spec in network.engines] == ["fp32", "bf16"]
    assert [spec.kind for spec in network.baselines] == ["published", "mfnet", "compiled"]
    gflop = [spec.gflop for spec in network.baselines]
    assert gflop[0] == gflop[2] > gflop[1]
    request = replace(request, baselines=(), compiled=False, batches=(1, 2), baseline_batch=1)
    (network,) = networks_from_request(request)
    assert {spec.batch for spec in network.engines} == {1, 2}
    assert network.checkpoint == beside.resolve()
    assert len(network.baselines) == 2


def test_a_checkpoint_alone_is_timed(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "best.pt")
    (network,) = networks_from_request(LatencyRequest(models=(path,), backends=("onnxruntime",)))
    assert network.engines == ()


@pytest.mark.parametrize(
    ("change", "kind", "part"),
    [
        ({"models": ()}, UsageError, "no model"),
        ({"models": (Path("nowhere.onnx"),)}, UsageError, "nowhere.onnx: no such model file"),
        ({"baselines": (Path("nowhere.pt"),)}, UsageError, "nowhere.pt: no such model file"),
        ({"backends": ("tensorflow",)}, UsageError, "'tensorflow': expected some of .*onnxruntime"),
        ({"backends": ()}, UsageError, "backend none"),
        ({"precisions": ("fp64",)}, UsageError, "precision 'fp64'"),
        ({"batches": ()}, UsageError, "batches"),
        ({"batches": (1, 0)}, UsageError, "batches"),
        ({"baseline_batch": 0}, UsageError, "batches"),
        ({"rounds": 0}, UsageError, "0 rounds"),
        ({"windows": 0}, UsageError, "0 windows"),
    ],
)
def test_odd_requests(
    exported: Path, change: dict[str, Any], kind: type[MFNetError], part: str
) -> None:
    with pytest.raises(kind, match=part):
        LatencyRequest(**{"models": (exported,), "backends": ("onnxruntime",), **change})


def lonely(folder: Path, exported: Path) -> list[Path]:
    path = folder / "moved.onnx"
    path.write_bytes(exported.read_bytes())
    return [path]


def of_another_window(folder: Path, exported: Path) -> list[Path]:
    write_checkpoint(folder / "rgbd.pt")
    return [write_rgbd_model(folder / "rgbd.onnx", 32)]


def of_other_classes(folder: Path, exported: Path) -> list[Path]:
    write_checkpoint(folder / "rgbd.pt")
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


def test_a_file_of_another_checkpoint(exported: Path, tmp_path: Path) -> None:
    other = write_checkpoint(tmp_path / "other.pt", seed=1)
    request = LatencyRequest(models=(exported,), baselines=(other,), backends=("onnxruntime",))
    with pytest.raises(ModelError, match=r"best\.onnx: was exported from .* --baseline"):
        networks_from_request(request)


@pytest.mark.parametrize("words", [["--batches", "one"], ["--rounds", "0"], ["--backends", "x"]])
def test_odd_words(exported: Path, capsys: Capture, words: list[str]) -> None:
    assert bench(exported, *words) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_names() -> None:
    assert network_name(config_from_preset("vit_b", classes=5, tuning="adapter")) == "vit_b adapter"
    config = replace(config_from_preset("tiny", classes=2), depth=3)
    assert network_name(config) == "32x3 lora"
    fp32 = Contract(64, ClassTable.numbered(2))
    int8 = replace(fp32, precision="int8")
    assert [precision_of(fp32, asked) for asked in ("fp32", "bf16")] == ["fp32", "bf16"]
    assert [precision_of(int8, asked) for asked in ("fp32", "bf16")] == ["int8", "int8+bf16"]
