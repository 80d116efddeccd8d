"""Which plans run, and which are refused, with what remedy, before they are opened."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fakes.fake_tensorrt import LEAN, VERSIONS, fake_tensorrt
from rgbd_plans import Rig, rig, write_rgbd_plan

from mfnet_runtime.backends import backend_from_file
from mfnet_runtime.backends.tensorrt.flavour import FULL, RTX
from mfnet_runtime.backends.tensorrt.plan_file import sidecar_of
from mfnet_runtime.contract import Contract
from mfnet_runtime.errors import ModelError, ResourceError, UsageError
from mfnet_runtime.labels import ClassTable


@pytest.fixture
def machine() -> Iterator[Rig]:
    with rig("10.13") as machine:
        yield machine
        machine.check()


@pytest.fixture
def plan(machine: Rig, tmp_path: Path) -> Path:
    return write_rgbd_plan(tmp_path / "a.plan", machine.trt)


def opened(plan: Path, **options: Any) -> str:
    """Open a plan and return its device."""
    with backend_from_file(plan, **options) as backend:
        return backend.device


def assert_never_opened(machine: Rig) -> None:
    assert machine.trt.called("Runtime.deserialize_cuda_engine") == []


def changed(plan: Path, **facts: Any) -> Path:
    """Change facts in the file beside a plan."""
    sidecar = sidecar_of(plan)
    sidecar.write_text(json.dumps({**json.loads(sidecar.read_text()), **facts}))
    return plan


def test_device(plan: Path) -> None:
    assert opened(plan) == "NVIDIA Fake, TensorRT 10.13.3.9"


def test_files_that_do_not_belong_together(machine: Rig, plan: Path) -> None:
    plan.write_bytes(plan.read_bytes() + b"x")
    with pytest.raises(ModelError, match=r"a\.plan: its SHA-256 is .*mfnet-export --onnx a\.onnx"):
        opened(plan)
    sidecar_of(plan).write_text("{")
    for trusted in (False, True):
        with pytest.raises(ModelError, match=r"a\.plan\.json cannot be read") as caught:
            opened(plan, trust_plan=trusted)
        assert "--trust-plan" not in str(caught.value)
    sidecar_of(plan).unlink()
    with pytest.raises(ModelError, match=r"a\.plan: a\.plan\.json is not beside it.*--trust-plan"):
        opened(plan)
    assert_never_opened(machine)


@pytest.mark.parametrize(
    ("built", "compatible", "runs"),
    [
        ("10.13.3.9", False, True),
        ("10.13.3.8", False, False),
        ("10.14.0.1", False, False),
        ("10.13.3.9", True, True),
        ("10.9.0.34", True, True),
        ("8.6.1", True, True),
        ("10.14.0.1", True, False),
        ("11.4.0.106", True, False),
    ],
)
def test_versions_of_tensorrt(
    machine: Rig, tmp_path: Path, built: str, compatible: bool, runs: bool
) -> None:
    plan = write_rgbd_plan(
        tmp_path / "a.plan", machine.trt, version=built, version_compatible=compatible
    )
    if runs:
        opened(plan)
        return
    message = (
        rf"built for TensorRT {built}.*, here is 10\.13\.3\.9; "
        r"build it again here: mfnet-export --onnx a\.onnx --plan"
    )
    with pytest.raises(ModelError, match=message):
        opened(plan)
    assert_never_opened(machine)


@pytest.mark.parametrize(
    ("built", "hardware", "runs"),
    [
        ("sm90", "none", True),
        ("sm89", "none", False),
        ("sm90", "same_compute_capability", True),
        ("sm89", "same_compute_capability", False),
        ("sm80+", "ampere_plus", True),
        ("sm120", "none", False),
    ],
)
def test_gpus(machine: Rig, tmp_path: Path, built: str, hardware: str, runs: bool) -> None:
    plan = write_rgbd_plan(tmp_path / "a.plan", machine.trt, targets=(built,), hardware=hardware)
    if runs:
        opened(plan)
        return
    message = (
        rf"built for {built} \(on NVIDIA Fake\), here is NVIDIA Fake \(sm90\); "
        r"build it again: mfnet-export"
    )
    with pytest.raises(ModelError, match=message):
        opened(plan)
    assert_never_opened(machine)


def test_ampere_plus_runs_on_nothing_older(tmp_path: Path) -> None:
    with rig("10.13", compute_capability=(7, 5)) as machine:
        plan = write_rgbd_plan(
            tmp_path / "a.plan", machine.trt, targets=("sm80+",), hardware="ampere_plus"
        )
        with pytest.raises(ModelError, match=r"built for sm80\+ .*, here is NVIDIA Fake \(sm75\)"):
            opened(plan)
        machine.check()


def test_another_gpu_of_the_same_kind_is_warned_about(
    machine: Rig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plan = write_rgbd_plan(tmp_path / "a.plan", machine.trt, gpu="NVIDIA Other")
    opened(plan)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "built on NVIDIA Other and runs on NVIDIA Fake" in record.getMessage()
    caplog.clear()
    opened(changed(plan, hardware="same_compute_capability"))
    assert caplog.records == []


def test_no_weights(machine: Rig, plan: Path) -> None:
    with pytest.raises(ModelError, match=r"built without its weights.*without --strip-weights"):
        opened(changed(plan, weights=False))
    assert_never_opened(machine)


def test_an_old_tensorrt(machine: Rig, plan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.trt.module, "__version__", "8.5.3.1")
    with pytest.raises(UsageError, match=r"TensorRT 8\.5\.3\.1 is installed; needs 8\.6 or newer"):
        opened(plan)


def test_a_trusted_plan_is_opened_whatever_its_facts(plan: Path) -> None:
    changed(plan, plan_sha256="0" * 64, version="10.0.0.1", targets=["sm75"])
    opened(plan, trust_plan=True)


def test_a_trusted_plan_without_facts_takes_the_contract_of_the_onnx_file(
    machine: Rig, tmp_path: Path
) -> None:
    plan = write_rgbd_plan(tmp_path / "a.plan", machine.trt, precision="fp16")
    sidecar_of(plan).unlink()
    with backend_from_file(plan, trust_plan=True) as backend:
        assert backend.precision == "fp16"
        assert (backend.batches.best, backend.batches.largest) == (4, 64)
    plan.with_suffix(".onnx").unlink()
    with pytest.raises(ModelError, match=r"neither a\.plan\.json nor a\.onnx is beside it"):
        opened(plan, trust_plan=True)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_plan_that_tensorrt_does_not_open(tmp_path: Path, version: str) -> None:
    with rig(version) as machine:
        plan = write_rgbd_plan(tmp_path / "a.plan", machine.trt)
        machine.trt.script["open"] = "magic tag does not match\nEngine deserialization failed."
        with pytest.raises(ModelError, match=r"a\.plan: .*cannot open it.*magic tag does not"):
            opened(plan)
        machine.check()


def test_a_tensorrt_that_cannot_start(machine: Rig, plan: Path) -> None:
    machine.trt.script["start"] = "CUDA initialization failure with error: 35"
    with pytest.raises(UsageError, match=r"10\.13\.3\.9 cannot start \(CUDA init.*update the NV"):
        opened(plan)
    assert_never_opened(machine)


@pytest.mark.parametrize(
    "said",
    [
        "[defaultAllocator.cpp::allocate::31] Error Code 1: Cuda Runtime (out of memory)",
        "Requested amount of GPU memory (1024 bytes) could not be allocated.",
        "[engine.cpp] Error Code 2: OutOfMemory (no further information)",
        "Error Code 1: Cuda Runtime (out of memory)\nError Code 4: Engine deserialization failed.",
    ],
)
def test_weights_that_do_not_fit(machine: Rig, plan: Path, said: str) -> None:
    machine.trt.script["open"] = said
    with pytest.raises(ResourceError, match=r"a\.plan: does not fit in the GPU's memory"):
        opened(plan)


@pytest.mark.parametrize(
    ("contract", "message"),
    [
        (Contract(64, ClassTable.numbered(4)), "its contract implies"),
        (Contract(32, ClassTable.numbered(5)), "its contract implies"),
        (Contract(32, ClassTable.numbered(4), precision="fp16"), "float16"),
    ],
)
def test_an_engine_that_is_not_what_the_contract_says(
    machine: Rig, tmp_path: Path, contract: Contract, message: str
) -> None:
    plan = write_rgbd_plan(tmp_path / "a.plan", machine.trt, contract=contract)
    with pytest.raises(ModelError, match=rf"a\.plan: the graph has .*{message}"):
        opened(plan)


def test_batches_other_than_the_facts_say(plan: Path) -> None:
    changed(plan, profile={"smallest": 1, "best": 8, "largest": 64})
    with pytest.raises(ModelError, match=r"was built for batches .*best=4.*best=8"):
        opened(plan)


def test_a_plan_for_one_batch_alone(machine: Rig, tmp_path: Path) -> None:
    plan = write_rgbd_plan(tmp_path / "a.plan", machine.trt, profile=(8, 8, 8))
    with backend_from_file(plan) as backend:
        assert backend.batches.best == backend.batches.largest == 8


def test_the_precision_is_the_plans(machine: Rig, tmp_path: Path) -> None:
    plan = write_rgbd_plan(tmp_path / "a.plan", machine.trt, precision="fp16")
    with pytest.raises(UsageError, match=r"was built in fp16, which --precision cannot change"):
        opened(plan, precision="fp32")


@pytest.fixture
def without_tensorrt(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*FULL.modules, *FULL.lean, *RTX.modules):
        monkeypatch.setitem(sys.modules, name, None)


@pytest.mark.usefixtures("without_tensorrt")
def test_no_tensorrt(tmp_path: Path) -> None:
    plan = write_rgbd_plan(tmp_path / "a.plan", fake_tensorrt("10.13"))
    with pytest.raises(UsageError, match=r"needs tensorrt; install it with: pip install 'mfnet"):
        opened(plan)


@pytest.mark.usefixtures("without_tensorrt")
@pytest.mark.parametrize("name", ["tensorrt_lean", "tensorrt_lean_bindings"])
def test_the_lean_runtime_runs_what_it_can(tmp_path: Path, name: str) -> None:
    with rig(LEAN, name) as machine:
        plan = write_rgbd_plan(tmp_path / "a.plan", machine.trt, version_compatible=True)
        assert opened(plan) == "NVIDIA Fake, TensorRT 11.4.0.106"
        assert machine.trt.called("Runtime.engine_host_code_allowed=") == [(True,)]
        write_rgbd_plan(plan, machine.trt)
        with pytest.raises(ModelError, match=rf"needs the full TensorRT, but only {name} is"):
            opened(plan)
        machine.check()


def test_host_code_is_allowed_to_version_compatible_plans_alone(
    machine: Rig, tmp_path: Path
) -> None:
    opened(write_rgbd_plan(tmp_path / "a.plan", machine.trt))
    assert machine.trt.called("Runtime.engine_host_code_allowed=") == [(False,)]


def test_no_gpu(tmp_path: Path) -> None:
    with rig("10.13", gpus=0) as machine:
        plan = write_rgbd_plan(tmp_path / "a.plan", machine.trt)
        with pytest.raises(UsageError, match=r"no usable GPU .*no CUDA-capable device"):
            opened(plan)
        assert_never_opened(machine)
