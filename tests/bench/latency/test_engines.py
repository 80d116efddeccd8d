"""Children that load, answer, refuse and die; and batches stepped down when they do."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import write_rgbd_model

from mfnet_bench.latency import engines as latency_engines
from mfnet_bench.latency.engines import Engines, available_mb, compared_logits
from mfnet_bench.latency.networks import EngineSpec
from mfnet_bench.latency.process import EngineProcess, EngineRefusedError
from mfnet_bench.latency.rounds import DroppedError

SIDE = 32


@pytest.fixture
def windows(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    path = tmp_path / "windows.npz"
    image, dsm = (rng.random((3, bands, SIDE, SIDE), np.float32) for bands in (3, 1))
    np.savez(path, image=image, dsm=dsm)
    return path


def spec_of(path: Path, batch: int = 2) -> EngineSpec:
    return EngineSpec("file", path, "onnxruntime", "fp32", "fp32", 1.0, batch)


@pytest.fixture
def spec(tmp_path: Path) -> EngineSpec:
    return spec_of(write_rgbd_model(tmp_path / "rgbd.onnx", SIDE))


def test_a_model_answers_from_its_own_process(
    tmp_path: Path, windows: Path, spec: EngineSpec
) -> None:
    with EngineProcess(spec.to_json(1, windows)) as process:
        assert "ONNX Runtime" in process.facts["device"]
        assert process.facts["precision"] == "fp32"
        assert process.facts["load_s"] > 0
        out = tmp_path / "logits.npy"
        memory = process.ask("logits", out=str(out))["peak_rss_mb"]
        with np.load(windows) as arrays:  # the last batch is filled up, and cut again
            assert np.array_equal(np.load(out)[:, :3], arrays["image"])
            assert np.array_equal(np.load(out)[:, 3:], arrays["dsm"])
        assert memory is None or 20 < memory < 300  # no torch in there
        times = process.ask("run", calls=3)["ms"]
        assert len(times) == 3
        assert min(times) > 0
    assert not process.alive


def test_a_refusal_is_one_line_with_the_reason(tmp_path: Path, windows: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"broken")
    with pytest.raises(EngineRefusedError, match=r"broken\.onnx") as caught:
        EngineProcess(spec_of(broken).to_json(1, windows))
    assert len(str(caught.value).splitlines()) == 1
    engines = Engines(windows, 1, lambda _: None)
    assert engines.opened(spec_of(broken)) is None
    assert engines.refused == {spec_of(broken): str(caught.value)}


def test_a_fault_while_running_is_a_refusal_too(windows: Path, spec: EngineSpec) -> None:
    """An engine may load and still not run; what it printed is not its answer."""
    with EngineProcess(spec.to_json(1, windows)) as process:
        with pytest.raises(EngineRefusedError, match="FileNotFoundError"):
            process.ask("logits", out="/nowhere/logits.npy")
        assert process.alive


def test_a_killed_child_is_told_from_a_refusal(windows: Path, spec: EngineSpec) -> None:
    with EngineProcess(spec.to_json(1, windows)) as process:
        os.kill(process._child.pid, signal.SIGKILL)
        with pytest.raises(EngineRefusedError, match=r"killed.*memory"):
            process.ask("run", calls=1)
        assert not process.alive


def test_one_that_is_killed_between_rounds_drops_out(windows: Path, spec: EngineSpec) -> None:
    engines = Engines(windows, 1, lambda _: None)
    found = engines.opened(spec)
    assert found is not None
    process, turn = found
    with process:
        assert engines.warm[spec].agreement == 1.0
        assert all(ms > 0 for ms in turn())
        os.kill(process._child.pid, signal.SIGKILL)
        with pytest.raises(DroppedError):
            turn()
    assert "killed" in engines.refused[spec]


def test_one_that_dies_warming_up_is_refused(
    windows: Path, spec: EngineSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[EngineProcess] = []

    def mortal(message: dict[str, Any]) -> EngineProcess:
        opened.append(EngineProcess(message))
        os.kill(opened[0]._child.pid, signal.SIGKILL)
        return opened[0]

    monkeypatch.setattr(latency_engines, "EngineProcess", mortal)
    engines = Engines(windows, 1, lambda _: None)
    assert engines.opened(spec) is None
    assert "killed" in engines.refused[spec]
    assert not opened[0].alive


def test_logits_that_are_not_finite_are_no_result(tmp_path: Path, spec: EngineSpec) -> None:
    path = tmp_path / "nan.npz"  # the model gives back what it is given
    one = np.zeros((1, 1, SIDE, SIDE), np.float32)
    np.savez(path, image=np.repeat(one * np.nan, 3, axis=1), dsm=one)
    engines = Engines(path, 1, lambda _: None)
    assert engines.opened(spec) is None
    assert "not finite" in engines.refused[spec]


def test_logits_are_compared_by_class_and_range() -> None:
    reference = np.zeros((1, 2, 2, 2), np.float32)
    reference[0, 0] = [[1, 1], [1, -3]]  # range 4: classes 0 0 0 1
    found = reference.copy()
    found[0, 1, 0, 0] = 2  # class 1
    assert compared_logits(reference, found) == (0.75, 0.5)
    assert compared_logits(reference, reference) == (1.0, 0.0)
    assert compared_logits(reference * 0, found)[1] == 1.0  # a range of nothing


def test_memory_is_known_on_linux() -> None:
    free = available_mb()
    assert free is None or free > 10
