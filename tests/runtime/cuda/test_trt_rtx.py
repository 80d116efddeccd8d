"""Plans of TensorRT for RTX: which run where, and the kernels that are kept between runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes.fake_tensorrt import RTX as RTX_VERSION
from fakes.fake_tensorrt import fake_tensorrt
from rgbd_plans import Rig, rig, write_rgbd_plan

from mfnet_runtime.backends import backend_from_file
from mfnet_runtime.backends.tensorrt.flavour import FULL, RTX
from mfnet_runtime.errors import ModelError, UsageError
from mfnet_runtime.files import user_cache_folder


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with rig(RTX_VERSION, name="NVIDIA GeForce RTX 4090") as machine:
        yield machine
        machine.check()


@pytest.fixture
def plan(machine: Rig, tmp_path: Path) -> Path:
    return write_rgbd_plan(tmp_path / "a.plan", machine.trt)


def run(plan: Path, batches: int = 1, **options: Any) -> str:
    """Run batches of a plan and return its device."""
    with backend_from_file(plan, **options) as backend:
        for _ in range(batches):
            backend.infer(
                {spec.name: np.zeros((1, *spec.shape[1:]), spec.dtype) for spec in backend.inputs}
            )
        return backend.device


def kept() -> list[str]:
    folder = user_cache_folder()
    return sorted(os.listdir(folder)) if folder.exists() else []


def test_device(plan: Path) -> None:
    assert run(plan) == "NVIDIA GeForce RTX 4090, TensorRT for RTX 1.7.1.116"


@pytest.mark.parametrize(
    ("targets", "here", "message"),
    [
        (("sm89",), (8, 9), ""),
        (("sm75", "sm89"), (7, 5), ""),
        (("sm80+",), (8, 6), ""),
        (("sm80+",), (12, 0), ""),
        (("sm80+",), (13, 0), ""),
        (("sm80+",), (7, 5), r"built for sm80\+, here is NVIDIA Fake \(sm75\); .*--target sm75"),
        (("sm86", "sm89"), (12, 0), r"built for sm86, sm89, here is .* --plan --target sm120"),
        (("sm80+",), (9, 0), r"does not run on NVIDIA Fake \(sm90\); run the ONNX file with --dev"),
        (("sm80+",), (8, 7), r"TensorRT for RTX does not run on .*pip install 'mfnet\[gpu\]'"),
    ],
)
def test_gpus(
    tmp_path: Path, targets: tuple[str, ...], here: tuple[int, int], message: str
) -> None:
    with rig(RTX_VERSION, compute_capability=here) as machine:
        plan = write_rgbd_plan(tmp_path / "a.plan", machine.trt, targets=targets)
        if message:
            with pytest.raises(ModelError, match=message):
                run(plan)
            assert not machine.trt.called("Runtime.deserialize_cuda_engine")
        else:
            run(plan)
        machine.check()


def test_versions_are_equal(machine: Rig, tmp_path: Path) -> None:
    plan = write_rgbd_plan(tmp_path / "a.plan", machine.trt, version="1.7.0.1")
    with pytest.raises(ModelError, match=r"for TensorRT for RTX 1\.7\.0\.1, here is 1\.7\.1\.116"):
        run(plan)


def test_a_plan_of_the_other_flavour(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full, rtx = fake_tensorrt("10.13"), fake_tensorrt(RTX_VERSION)
    for name in (*FULL.modules, *FULL.lean, *RTX.modules):
        monkeypatch.setitem(sys.modules, name, None)
    rtx.install(monkeypatch)
    with pytest.raises(ModelError, match=r"built for TensorRT, here is TensorRT for RTX 1\.7"):
        run(write_rgbd_plan(tmp_path / "a.plan", full))
    monkeypatch.setitem(sys.modules, RTX.modules[0], None)
    full.install(monkeypatch)
    with pytest.raises(ModelError, match=r"built for TensorRT for RTX, here is TensorRT 10\.13"):
        run(write_rgbd_plan(tmp_path / "a.plan", rtx))
    monkeypatch.setitem(sys.modules, FULL.modules[0], None)
    with pytest.raises(UsageError, match=r"needs tensorrt_rtx; .*pip install 'mfnet\[rtx\]'"):
        run(tmp_path / "a.plan")


def test_a_header_that_tensorrt_refuses(machine: Rig, plan: Path) -> None:
    machine.trt.script["invalid"] = 1 + 4
    with pytest.raises(ModelError, match=r"on this GPU \(old cuda driver, version mismatch\); upd"):
        run(plan)
    assert not machine.trt.called("Runtime.deserialize_cuda_engine")


def test_kernels_are_kept_after_the_first_batches(machine: Rig, plan: Path) -> None:
    with backend_from_file(plan) as backend:
        feed = {spec.name: np.zeros((1, *spec.shape[1:]), spec.dtype) for spec in backend.inputs}
        for _ in range(7):
            backend.infer(feed)
        assert kept() == []
        backend.infer(feed)
        assert kept() == ["tensorrt-rtx-1.7.1.116-NVIDIA-GeForce-RTX-4090.cache"]
    file = user_cache_folder() / kept()[0]
    assert file.read_bytes() == b"kernels"
    written = file.stat().st_mtime_ns
    run(plan)
    assert machine.trt.called("IRuntimeCache.deserialize") == [(b"kernels",)]
    assert file.stat().st_mtime_ns == written, "nothing was added"


def test_kernels_of_a_short_run_are_kept_too(plan: Path) -> None:
    run(plan)
    assert len(kept()) == 1


def test_no_file_without_a_batch(plan: Path) -> None:
    run(plan, batches=0)
    assert kept() == []


def test_a_file_that_is_refused_is_replaced(machine: Rig, plan: Path) -> None:
    run(plan)
    file = user_cache_folder() / kept()[0]
    file.write_bytes(b"of another driver")
    machine.trt.script["kernels"] = b"of another driver"
    run(plan)
    assert file.read_bytes() == b"kernels"


def test_a_cache_that_cannot_be_written(plan: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    user_cache_folder().parent.mkdir()
    user_cache_folder().write_text("a file, not a folder")
    run(plan)
    assert "compiled kernels are not kept" in caplog.text


@pytest.mark.parametrize(("options", "strategy"), [({}, "LAZY"), ({"eager": True}, "EAGER")])
def test_when_kernels_are_compiled(
    machine: Rig, plan: Path, options: dict[str, bool], strategy: str
) -> None:
    run(plan, **options)
    name = "IRuntimeConfig.dynamic_shapes_kernel_specialization_strategy="
    ((given,),) = machine.trt.called(name)
    assert given.name == strategy
