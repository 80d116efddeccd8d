"""The engine that is fastest on this machine, measured once for a file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support import write_rgbd_model, write_scene

import mfnet_runtime.backends.fastest
from mfnet_runtime.backends.fastest import measure_engines
from mfnet_runtime.cli.main import main
from mfnet_runtime.files import user_cache_folder

pytest.importorskip("openvino", reason="one engine leaves nothing to choose")
ENGINES = ("openvino", "onnxruntime")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_rgbd_model(tmp_path / "best.onnx")


def pretend(monkeypatch: pytest.MonkeyPatch, times: dict[tuple[str, str], float | None]) -> None:
    """Replace the measurement of a file in an engine."""

    def time(path: Path, name: str, threads: int, precision: str | None) -> float | None:
        return times[path.name, name]

    monkeypatch.setattr(mfnet_runtime.backends.fastest, "_time", time)


def test_measured_once_and_then_remembered(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    times = measure_engines(model, ENGINES)
    assert set(times) == set(ENGINES)
    assert list(times.values()) == sorted(times.values())
    assert min(times.values()) > 0
    pretend(monkeypatch, {})  # a measurement would raise KeyError
    assert measure_engines(model, ENGINES) == times
    with pytest.raises(KeyError):
        measure_engines(model, ENGINES, threads=1)
    with pytest.raises(KeyError):
        measure_engines(write_rgbd_model(model.with_name("other.onnx"), 64), ENGINES)


def test_an_engine_that_refuses_is_left_out(model: Path) -> None:
    """ONNX Runtime has no BF16 on a CPU, OpenVINO only on some processors."""
    assert "onnxruntime" not in measure_engines(model, ENGINES, precision="bf16")


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'{"key": 3}', b"\xff"])
def test_a_damaged_file_is_replaced(
    model: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    pretend(monkeypatch, {("best.onnx", "openvino"): 2.0, ("best.onnx", "onnxruntime"): 1.0})
    user_cache_folder().mkdir(parents=True)
    file = user_cache_folder() / "engines.json"
    file.write_bytes(content)
    assert list(measure_engines(model, ENGINES)) == ["onnxruntime", "openvino"]
    assert list(json.loads(file.read_text()).values()) == [{"onnxruntime": 1.0, "openvino": 2.0}]


def test_a_cache_that_cannot_be_written(model: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    user_cache_folder().parent.mkdir()
    user_cache_folder().write_text("a file, not a folder")
    assert measure_engines(model, ENGINES)
    assert "not remembered" in caplog.text


@pytest.mark.parametrize(("int8", "warned"), [(3.0, True), (0.5, False)])
def test_int8_that_is_slower_than_fp32(
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    int8: float,
    warned: bool,
) -> None:
    quantised = write_rgbd_model(model.with_name("best.int8.onnx"), precision="int8")
    times: dict[tuple[str, str], float | None] = {
        ("best.onnx", "openvino"): 2.0,
        ("best.onnx", "onnxruntime"): 1.0,
        ("best.int8.onnx", "openvino"): int8,
        ("best.int8.onnx", "onnxruntime"): None,
    }
    pretend(monkeypatch, times)
    assert measure_engines(quantised, ENGINES) == {"openvino": int8}
    assert ("best.onnx in FP32 only 1: run that file" in caplog.text) == warned


def test_a_run_uses_the_fastest(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(model.parent)
    write_scene(model.parent / "scenes")
    words = [str(model), str(model.parent / "scenes"), "--json"]
    for faster in ENGINES:
        pretend(monkeypatch, {("best.onnx", name): 1.0 + (name != faster) for name in ENGINES})
        assert main([*words, "--threads", str(1 + ENGINES.index(faster)), "-o", faster]) == 0
        captured = capsys.readouterr()
        summary = json.loads(captured.out)
        assert summary["backend"] == faster
        assert list(summary["ms_a_window"]) == sorted(ENGINES, key=lambda name: name != faster)
        assert f"({faster} 1, " in captured.err
    assert main([*words, "--backend", "onnxruntime", "-o", "given"]) == 0
    assert json.loads(capsys.readouterr().out)["ms_a_window"] == {}
