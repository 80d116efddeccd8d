"""Engines in their processes: they load, answer, refuse and die."""

from __future__ import annotations

import os
import signal
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fakes.fake_ort_cuda import FakeOrtCuda
from networks import random_network, write_checkpoint
from rgbd_plans import rig, write_rgbd_plan
from support import write_rgbd_model

from mfnet_bench.latency import engines as latency_engines
from mfnet_bench.latency.engines import (
    EngineProcess,
    EngineRefusedError,
    Engines,
    compare_logits,
)
from mfnet_bench.latency.networks import EngineSpec
from mfnet_bench.latency.request import FILE
from mfnet_bench.latency.rounds import DroppedError
from mfnet_bench.latency.worker import engine_from_spec

SIDE = 32


def write_windows(path: Path, side: int = SIDE) -> Path:
    rng = np.random.default_rng(0)
    image, dsm = (rng.random((3, bands, side, side), np.float32) for bands in (3, 1))
    np.savez(path, image=image, dsm=dsm)
    return path


@pytest.fixture
def windows(tmp_path: Path) -> Path:
    return write_windows(tmp_path / "windows.npz")


def spec_of(path: Path) -> EngineSpec:
    return EngineSpec(FILE, path, "onnxruntime", "fp32", "fp32", 1.0, 2)


@pytest.fixture
def spec(tmp_path: Path) -> EngineSpec:
    return spec_of(write_rgbd_model(tmp_path / "rgbd.onnx", SIDE))


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> list[EngineProcess]:
    """Those that `Engines` opened."""
    opened: list[EngineProcess] = []

    def opening(*words: Any) -> EngineProcess:
        opened.append(EngineProcess(*words))
        return opened[-1]

    monkeypatch.setattr(latency_engines, "EngineProcess", opening)
    return opened


def asked(path: Path, windows: Path, **changes: Any) -> dict[str, Any]:
    facts = {"kind": "file", "backend": "onnxruntime", "precision": "fp32", "device": "cpu"}
    return {**facts, "path": path, "windows": windows, "batch": 2, "threads": 1, **changes}


def test_a_model_answers_from_its_own_process(
    tmp_path: Path, windows: Path, spec: EngineSpec, processes: list[EngineProcess]
) -> None:
    """A fault while it runs is a refusal; when killed, it says so and drops out of the rounds."""
    engines = Engines(windows, 1)
    with ExitStack() as stack:
        (turn,) = engines.open(spec, stack).values()
        warm = engines.warm[spec]
        assert "ONNX Runtime" in warm.facts["device"]
        assert warm.facts["precision"] == "fp32"
        assert warm.facts["load_s"] > 0
        assert warm.agreement == 1.0
        assert warm.peak_rss_mb is None or 20 < warm.peak_rss_mb < 300  # without torch
        with np.load(windows) as arrays:  # the last batch is filled up, and cut again
            logits = np.load(tmp_path / "logits.npy")
            assert np.array_equal(logits, np.concatenate([arrays["image"], arrays["dsm"]], 1))
        assert len(turn()) == warm.calls
        assert all(ms > 0 for ms in turn())
        (process,) = processes
        with pytest.raises(EngineRefusedError, match="FileNotFoundError"):
            process.ask("logits", out="/nowhere/logits.npy")
        assert process.alive
        os.kill(process._child.pid, signal.SIGKILL)
        with pytest.raises(DroppedError):
            turn()
        assert not process.alive
    assert "killed, most likely for want of memory" in engines.refused[spec]


def refusal(windows: Path, spec: EngineSpec) -> str:
    """The reason why an engine does not run."""
    engines = Engines(windows, 1)
    with ExitStack() as stack:
        assert engines.open(spec, stack) == {}
    return engines.refused[spec]


def test_a_refusal_is_one_line_with_the_reason(tmp_path: Path, windows: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"broken")
    (reason,) = refusal(windows, spec_of(broken)).splitlines()
    assert "broken.onnx" in reason


def test_an_engine_that_dies_warming_up_is_refused(
    windows: Path,
    spec: EngineSpec,
    processes: list[EngineProcess],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ask = EngineProcess.ask

    def mortal(process: EngineProcess, *words: Any, **more: Any) -> Any:
        os.kill(process._child.pid, signal.SIGKILL)
        return ask(process, *words, **more)

    monkeypatch.setattr(EngineProcess, "ask", mortal)
    assert "killed" in refusal(windows, spec)
    assert not processes[0].alive


def test_logits_that_are_not_finite_are_no_result(tmp_path: Path, spec: EngineSpec) -> None:
    path = tmp_path / "nan.npz"  # the model returns its inputs
    one = np.zeros((1, 1, SIDE, SIDE), np.float32)
    np.savez(path, image=np.repeat(one * np.nan, 3, axis=1), dsm=one)
    assert "not finite" in refusal(path, spec)


@pytest.mark.parametrize("kind", ["published", "mfnet"])
def test_baselines_run_the_checkpoint(tmp_path: Path, kind: str) -> None:
    path = write_checkpoint(tmp_path / "best.pt", window=64, classes=3)
    network = random_network("lora", window=64, classes=3)
    windows = write_windows(tmp_path / "windows.npz", 64)
    engine = engine_from_spec(asked(path, windows, kind=kind))
    assert "PyTorch" in engine.facts["device"]
    engine.logits(str(tmp_path / "out.npy"))
    with np.load(windows) as arrays, torch.inference_mode():
        expected = network(torch.from_numpy(arrays["image"]), torch.from_numpy(arrays["dsm"]))
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), expected, atol=1e-5)


def test_a_plan_is_timed_on_the_gpu(tmp_path: Path, windows: Path) -> None:
    with rig("10.13") as machine:
        plan = write_rgbd_plan(tmp_path / "a.fp16.plan", machine.trt, precision="fp16")
        spec = asked(plan, windows, backend="tensorrt", device="cuda")
        engine = engine_from_spec(spec)
        assert engine.facts["precision"] == "fp16"
        engine.logits(str(tmp_path / "out.npy"))
        copies = machine.cuda.machine.calls.count("cuMemcpyHtoDAsync")
        assert len(engine.run(5)["ms"]) == 5
        assert machine.cuda.machine.calls.count("cuMemcpyHtoDAsync") == copies + 2  # once for all
        engine._backend.__exit__()
        machine.check()
    assert np.load(tmp_path / "out.npy").dtype == np.float32


def test_onnx_runtime_on_a_gpu_takes_the_file_s_precision(
    tmp_path: Path, windows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = write_rgbd_model(tmp_path / "rgbd.fp16.onnx", SIDE, precision="fp16")
    FakeOrtCuda().install(monkeypatch)
    engine = engine_from_spec(asked(model, windows, device="cuda"))
    assert engine.facts["precision"] == "fp16"
    assert len(engine.run(3)["ms"]) == 3


def test_logits_are_compared_by_class_and_range() -> None:
    reference = np.zeros((1, 2, 2, 2), np.float32)
    reference[0, 0] = [[1, 1], [1, -3]]  # range 4: classes 0 0 0 1
    found = reference.copy()
    found[0, 1, 0, 0] = 2  # class 1
    assert compare_logits(reference, found) == (0.75, 0.5)
    assert compare_logits(reference, reference) == (1.0, 0.0)
    assert compare_logits(reference * 0, found)[1] == 1.0  # a range of 0
