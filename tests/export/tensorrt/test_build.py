"""Plans, built by a TensorRT that is recorded from three versions and computes nothing."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from threading import Event, main_thread
from types import ModuleType
from typing import Any

import onnx
import pytest
from fakes.fake_pycuda import FakePycuda
from fakes.fake_tensorrt import VERSIONS, FakeTensorRT, fake_tensorrt
from fakes.trt_builder import CACHE
from fakes.trt_runtime import plan_from_bytes
from plans import gpu, no_gpu, write_attention
from support import RGBD, write_rgbd_model

from mfnet_export.errors import ExportError
from mfnet_export.tensorrt.build import PlanReport, plan_from_onnx
from mfnet_export.tensorrt.machine import NoBuilderError
from mfnet_export.tensorrt.options import PlanOptions, plan_beside, profile_from_text
from mfnet_export.tensorrt.progress import Watch, watched
from mfnet_runtime.backends.tensorrt.plan_file import Profile, facts_of_plan
from mfnet_runtime.contract import METADATA_KEY, Contract
from mfnet_runtime.errors import DeviceLostError, ModelError, ResourceError, UsageError
from mfnet_runtime.files import sha256_from_file

__all__ = ["gpu", "no_gpu"]
OLD = "8.6"


@pytest.fixture(params=VERSIONS)
def trt(
    request: pytest.FixtureRequest, gpu: FakePycuda, monkeypatch: pytest.MonkeyPatch
) -> FakeTensorRT:
    return fake_tensorrt(request.param).install(monkeypatch)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_attention(tmp_path / "best.fp16.onnx")


def build(source: Path, **options: Any) -> PlanReport:
    return plan_from_onnx(source, plan_beside(source), PlanOptions(**options))


def flags_set(trt: FakeTensorRT) -> set[str]:
    return {flag.name for (flag,) in trt.called("IBuilderConfig.set_flag")}


def test_calls_in_order(trt: FakeTensorRT, source: Path, gpu: FakePycuda) -> None:
    trt.script["build"] = gpu.driver.mem_get_info  # fails in a thread without the GPU's context
    build(source)
    old = trt.version.startswith(OLD)
    mode = "EXPLICIT_BATCH" if old else "STRONGLY_TYPED"
    bit = 1 << int(getattr(trt.module.NetworkDefinitionCreationFlag, mode))
    assert trt.called("Builder.create_network") == [(bit,)]
    assert flags_set(trt) == ({"FP16"} if old else set())
    assert [flag.name for (flag,) in trt.called("IBuilderConfig.clear_flag")] == ["TF32"]
    assert trt.called("IOptimizationProfile.set_shape") == [
        ("image", (1, 3, 32, 32), (16, 3, 32, 32), (16, 3, 32, 32)),
        ("dsm", (1, 1, 32, 32), (16, 1, 32, 32), (16, 1, 32, 32)),
    ]
    (verbosity,) = trt.called("IBuilderConfig.profiling_verbosity=")
    assert verbosity[0].name == "DETAILED"
    assert len(trt.called("IBuilderConfig.progress_monitor=")) == (0 if old else 1)
    steps = [call.name for call in trt.calls]
    order = [
        "Builder.create_network",
        "OnnxParser.parse_from_file",
        "IBuilderConfig.add_optimization_profile",
        "Builder.build_serialized_network",
        "Runtime.deserialize_cuda_engine",
        "EngineInspector.get_engine_information",
    ]
    assert [name for name in steps if name in order] == order
    for untouched in ("set_memory_pool_limit", "set_tactic_sources", "builder_optimization_level="):
        assert f"IBuilderConfig.{untouched}" not in steps


def test_facts_beside_the_plan(trt: FakeTensorRT, source: Path) -> None:
    report = build(source, profile=Profile(2, 4, 8))
    plan = source.with_name("best.fp16.plan")
    facts = facts_of_plan(plan)
    assert facts == report.facts
    assert facts.plan_sha256 == sha256_from_file(plan)
    assert facts.onnx_sha256 == sha256_from_file(source)
    assert (facts.tensorrt, facts.cuda, facts.driver) == (trt.version, "12.6", "12.4")
    assert (facts.gpu, facts.compute_capability) == ("NVIDIA Test", (8, 7))
    assert (facts.profile, facts.contract.precision) == (Profile(2, 4, 8), "fp16")
    assert (facts.layers, facts.fused_attentions) == (7, 1)
    assert (facts.version_compatible, facts.hardware, facts.weights) == (False, "none", True)
    assert not report.caution
    lines = "\n".join(report.lines())
    assert f"TensorRT {trt.version}, NVIDIA Test (compute capability 8.7), fp16" in lines
    assert "batches of 2 to 8, best at 4" in lines
    assert "7 layers, 1 fused attention kernels for 1 attentions" in lines
    assert json.loads(json.dumps(report.to_json()))["attentions"] == 1
    assert sorted(os.listdir(source.parent)) == [
        "best.fp16.onnx",
        "best.fp16.plan",
        "best.fp16.plan.json",
    ]


def test_fp32_is_never_run_in_fp16(trt: FakeTensorRT, tmp_path: Path) -> None:
    source = write_attention(tmp_path / "best.onnx", "fp32")
    report = build(source)
    assert report.output.name == "best.plan"
    assert not flags_set(trt)
    assert report.facts.contract.precision == "fp32"


def test_fp32_nodes_of_an_fp16_file_stay_so(trt: FakeTensorRT, tmp_path: Path) -> None:
    """Where TensorRT keeps to the file's types by itself, it is told nothing."""
    build(write_attention(tmp_path / "best.fp16.onnx", island=True))
    told = [kind.name for (kind,) in trt.called("ILayer.precision=")]
    outputs = [(index, kind.name) for index, kind in trt.called("ILayer.set_output_type")]
    if trt.version.startswith(OLD):
        assert flags_set(trt) == {"FP16", "OBEY_PRECISION_CONSTRAINTS"}
        assert (told, outputs) == (["FLOAT"], [(0, "FLOAT")])
    else:
        assert not flags_set(trt)
        assert not told
        assert not outputs


def test_fp32_nodes_that_cannot_be_told_apart_are_refused(
    gpu: FakePycuda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trt = fake_tensorrt(OLD).install(monkeypatch)
    trt.script["renamed"] = "_1"
    source = write_attention(tmp_path / "best.fp16.onnx", island=True)
    with pytest.raises(ExportError, match=r"8\.6\.1 cannot be told to compute weigh in FP32"):
        build(source)
    assert not trt.called("Builder.build_serialized_network")


@pytest.mark.usefixtures("above_2_gib")
def test_weights_beside_the_file_are_read(trt: FakeTensorRT, tmp_path: Path) -> None:
    source = write_attention(tmp_path / "large.fp16.onnx", beside=True)
    assert (tmp_path / "large.fp16.onnx.data").is_file()
    plan = plan_from_bytes(build(source).output.read_bytes())
    assert plan is not None
    assert b"large.fp16.onnx.data" not in plan.onnx


def test_options_reach_tensorrt(trt: FakeTensorRT, source: Path) -> None:
    report = build(
        source, level=5, workspace=1.5, own_kernels=True, version_compatible=True, refittable=True
    )
    assert trt.called("IBuilderConfig.builder_optimization_level=") == [(5,)]
    ((pool, size),) = trt.called("IBuilderConfig.set_memory_pool_limit")
    assert (pool.name, size) == ("WORKSPACE", 3 << 29)
    ((sources,),) = trt.called("IBuilderConfig.set_tactic_sources")
    left = {
        name
        for name, source in trt.module.TacticSource.__members__.items()
        if sources & 1 << int(source)
    }
    assert left == {"EDGE_MASK_CONVOLUTIONS", "JIT_CONVOLUTIONS"}
    assert flags_set(trt) - {"FP16"} == {"VERSION_COMPATIBLE", "REFIT"}
    ((flag,),) = trt.called("OnnxParser.set_flag")
    assert flag.name == "NATIVE_INSTANCENORM"
    assert report.facts.version_compatible


@pytest.mark.parametrize("level", ["same_compute_capability", "ampere_plus"])
def test_plans_for_other_gpus(trt: FakeTensorRT, source: Path, level: str) -> None:
    if trt.version.startswith(OLD) and level != "ampere_plus":
        with pytest.raises(UsageError, match=r"8\.6\.1 has no HardwareCompatibilityLevel\.SAME"):
            build(source, hardware=level)
        return
    assert build(source, hardware=level).facts.hardware == level
    ((given,),) = trt.called("IBuilderConfig.hardware_compatibility_level=")
    assert given.name == level.upper()


@pytest.mark.parametrize(
    ("level", "needed"), [("same_compute_capability", "7.5"), ("ampere_plus", "8.0")]
)
def test_plans_for_other_gpus_need_a_newer_one(
    trt: FakeTensorRT, source: Path, gpu: FakePycuda, level: str, needed: str
) -> None:
    gpu.compute_capability = (7, 2)
    with pytest.raises(UsageError, match=f"has compute capability 7.2, needed is {needed}"):
        build(source, hardware=level)


@pytest.mark.parametrize("refittable", [False, True])
def test_plans_without_weights(trt: FakeTensorRT, source: Path, refittable: bool) -> None:
    if trt.version.startswith(OLD):
        with pytest.raises(UsageError, match=r"8\.6\.1 has no BuilderFlag\.STRIP_PLAN"):
            build(source, strip_weights=True, refittable=refittable)
        return
    report = build(source, strip_weights=True, refittable=refittable)
    assert flags_set(trt) == {"STRIP_PLAN", "REFIT" if refittable else "REFIT_IDENTICAL"}
    assert not report.facts.weights


def interrupt() -> None:
    """Ctrl-C, from another thread."""
    time.sleep(0.05)
    signal.pthread_kill(main_thread().ident or 0, signal.SIGINT)


def old_plan(source: Path) -> Path:
    plan = source.with_name("best.fp16.plan")
    plan.write_text("old")
    return plan


def assert_untouched(plan: Path, *beside: str) -> None:
    assert plan.read_text() == "old"
    assert sorted(os.listdir(plan.parent)) == sorted(["best.fp16.onnx", plan.name, *beside])


def test_parser_faults_name_node_and_operator(trt: FakeTensorRT, source: Path) -> None:
    plan = old_plan(source)
    trt.script["parse_errors"] = [
        {
            "desc": "Unsupported\n type",
            "node": 2,
            "node_name": "softmax",
            "node_operator": "Softmax",
        },
        {"desc": "no graph", "node": -1},
    ]
    told: list[str] = []
    with pytest.raises(ExportError, match=r"cannot read it \(softmax \(Softmax\): Unsupported ty"):
        plan_from_onnx(source, plan, PlanOptions(), told.append)
    assert told[-2:] == ["softmax (Softmax): Unsupported type", "graph (no node): no graph"]
    assert_untouched(plan)


@pytest.mark.parametrize(
    ("said", "kind", "part"),
    [
        ("no implementation for node mix", ExportError, "node mix); try another --opt-level"),
        ("OutOfMemory (Requested size was 9 bytes.)", ResourceError, "ran out of memory while"),
    ],
)
def test_failed_builds_say_why(
    trt: FakeTensorRT, source: Path, said: str, kind: type[Exception], part: str
) -> None:
    plan = old_plan(source)
    trt.script |= {"fails": True, "log": [("INFO", "timing"), ("ERROR", said)]}
    with pytest.raises(kind, match=r"TensorRT .* on NVIDIA Test") as fault:
        build(source, timing_cache=source.with_name("timings"))
    assert part in str(fault.value)
    assert said in str(fault.value)
    assert "timing)" not in str(fault.value)
    assert_untouched(plan)


def test_a_gpu_that_fails_amid_the_build(trt: FakeTensorRT, gpu: FakePycuda, source: Path) -> None:
    def fail() -> None:
        gpu.machine.lost = True

    plan = old_plan(source)
    trt.script |= {"build": fail, "fails": True, "log": [("ERROR", "illegal memory access")]}
    with pytest.raises(DeviceLostError, match=r"NVIDIA Test: .* the GPU stopped working"):
        build(source)
    assert_untouched(plan)
    gpu.live.clear()  # nothing of a lost GPU is given back


def test_a_plan_that_does_not_load_is_not_written(
    trt: FakeTensorRT, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = old_plan(source)
    monkeypatch.setattr("fakes.trt_runtime.plan_from_bytes", lambda data: None)
    with pytest.raises(ExportError, match="just built does not load"):
        build(source)
    assert_untouched(plan)


def test_faults_in_the_build_are_raised_here(trt: FakeTensorRT, source: Path) -> None:
    def crash() -> None:
        raise RuntimeError("in another thread")

    plan = old_plan(source)
    trt.script["build"] = crash
    with pytest.raises(RuntimeError, match="in another thread"):
        build(source)
    assert_untouched(plan)


def test_an_interrupt_ends_the_build(trt: FakeTensorRT, source: Path) -> None:
    """It stops at its next step; TensorRT 8.6 has none and builds to the end, for nothing."""
    plan, told = old_plan(source), list[str]()
    trt.script |= {"build": interrupt, "pause": 0.02, "steps": 500}
    with pytest.raises(KeyboardInterrupt):
        plan_from_onnx(source, plan, PlanOptions(), told.append)
    assert told[-1] == "stopping: TensorRT ends at its next step"
    monitored = hasattr(trt.module, "IProgressMonitor")
    assert (0 < trt.script["reached"] < 500) if monitored else "reached" not in trt.script
    assert_untouched(plan)


def test_progress_is_told(trt: FakeTensorRT, source: Path) -> None:
    told: list[str] = []
    trt.script |= {"pause": 0.12, "steps": 4}
    plan_from_onnx(source, plan_beside(source), PlanOptions(), told.append)
    assert told[0] == f"building with TensorRT {trt.version} on NVIDIA Test, which takes minutes"
    expected = {"Building 1/4", "Building 2/4", "Building 3/4", "Building 4/4"}
    assert set(told[1:]) <= expected
    assert bool(told[1:]) == hasattr(trt.module, "IProgressMonitor")


def test_a_long_silence_is_broken(
    trt: FakeTensorRT, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As TensorRT's own is: it reports little while it times kernels."""
    told: list[str] = []
    monkeypatch.setattr("mfnet_export.tensorrt.progress.QUIET", 0)
    trt.script["build"] = lambda: time.sleep(0.5)
    plan_from_onnx(source, plan_beside(source), PlanOptions(), told.append)
    assert "still at it, 0 min" in told


def test_a_second_interrupt_does_not_wait() -> None:
    watch, ended = Watch(), Event()

    def call() -> None:
        for _ in range(2):
            interrupt()
        ended.wait(10)

    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        watched(call, watch, lambda _: None)
    assert watch.stopped
    assert time.monotonic() - started < 5
    ended.set()


@pytest.mark.parametrize(
    ("before", "behaves", "handed_over"),
    [
        (None, None, [b""]),
        (b"timings of last time", None, [b"timings of last time"]),
        (b"half", "corrupt", [b"half", b""]),
        (b"another GPU's", "mismatch", [b"another GPU's", b""]),
    ],
)
def test_timing_cache(
    trt: FakeTensorRT,
    source: Path,
    before: bytes | None,
    behaves: str | None,
    handed_over: list[bytes],
) -> None:
    cache, told = source.with_name("timings"), list[str]()
    if before is not None:
        cache.write_bytes(before)
    trt.script["cache"] = behaves
    options = PlanOptions(timing_cache=cache)
    plan_from_onnx(source, plan_beside(source), options, told.append)
    assert [given for (given,) in trt.called("IBuilderConfig.create_timing_cache")] == handed_over
    start = before if before is not None and behaves is None else CACHE
    assert cache.read_bytes() == start + b"and more "
    assert ("timings is of another GPU or TensorRT, or damaged" in "".join(told)) == bool(behaves)
    assert [ignore for _, ignore in trt.called("IBuilderConfig.set_timing_cache")][-1] is False


def test_a_failed_build_leaves_the_timing_cache(trt: FakeTensorRT, source: Path) -> None:
    cache = source.with_name("timings")
    cache.write_bytes(b"of last time")
    trt.script["fails"] = True
    with pytest.raises(ExportError):
        build(source, timing_cache=cache)
    assert cache.read_bytes() == b"of last time"


def test_a_timing_cache_that_cannot_be_written_is_told_before_the_build(
    trt: FakeTensorRT, source: Path
) -> None:
    with pytest.raises(UsageError, match="absent: not a folder"):
        build(source, timing_cache=source.with_name("absent") / "timings")
    assert not trt.called("Builder.build_serialized_network")


def test_unfused_attention_is_a_caution(trt: FakeTensorRT, source: Path) -> None:
    trt.script["layers"] = [{"Name": "mix", "LayerType": "gemm", "TacticName": "sm90_xmma"}]
    report = build(source)
    assert report.facts.fused_attentions == 0
    assert report.caution.startswith("0 fused attention kernels for 1 attentions")
    assert report.lines()[-2].strip() == f"warning: {report.caution}"
    trt.script["layers"] = [{"Name": "{ForeignNode[stack...lower]}", "LayerType": "Myelin"}]
    hidden = build(source)
    assert (hidden.facts.layers, hidden.facts.fused_attentions) == (1, None)
    assert not hidden.caution
    assert "1 layers, ? fused" in "\n".join(hidden.lines())


def test_warnings_are_kept(trt: FakeTensorRT, source: Path) -> None:
    trt.script["log"] = [("WARNING", "subnormal FP16 weights"), ("INFO", "timing")]
    assert build(source).to_json()["warnings"] == ["subnormal FP16 weights"]


def test_files_plans_are_not_built_from(trt: FakeTensorRT, tmp_path: Path) -> None:
    plan = tmp_path / "best.plan"
    for precision in ("int8", "bf16"):
        path = write_rgbd_model(tmp_path / f"{precision}.onnx", precision=precision)
        with pytest.raises(ModelError, match=f"is {precision.upper()}, plans are built from FP16"):
            plan_from_onnx(path, plan, PlanOptions())
    liar = write_rgbd_model(tmp_path / "liar.onnx")
    model = onnx.load(liar)
    contract = Contract(32, RGBD, precision="fp16")
    onnx.helper.set_model_props(model, {METADATA_KEY: contract.to_json()})
    onnx.save(model, liar)
    with pytest.raises(ModelError, match="its contract implies"):
        plan_from_onnx(liar, plan, PlanOptions())
    (tmp_path / "text.onnx").write_text("no model")
    with pytest.raises(ModelError, match=r"text\.onnx: not a usable ONNX file"):
        plan_from_onnx(tmp_path / "text.onnx", plan, PlanOptions())
    with pytest.raises(UsageError, match=r"none\.onnx: no such file"):
        plan_from_onnx(tmp_path / "none.onnx", plan, PlanOptions())
    with pytest.raises(UsageError, match=r"best\.engine: expected a name ending in \.plan"):
        plan_from_onnx(liar, tmp_path / "best.engine", PlanOptions())
    assert not plan.exists()
    assert not trt.called("Builder.build_serialized_network")


def test_machines_without_tensorrt(
    source: Path, gpu: FakePycuda, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(NoBuilderError, match=r"needs tensorrt; install it with: pip install 'mfne"):
        build(source)
    ancient = ModuleType("tensorrt")
    ancient.__version__ = "8.5.3"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tensorrt", ancient)
    with pytest.raises(NoBuilderError, match=r"TensorRT 8\.5\.3 is too old; needs 8\.6 or newer"):
        build(source)
    monkeypatch.delitem(sys.modules, "tensorrt")
    (tmp_path / "tensorrt.py").write_text("raise ImportError('libnvinfer.so.10: cannot open')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(NoBuilderError, match=r"does not load \(libnvinfer\.so\.10: cannot open\)"):
        build(source)
    assert not list(tmp_path.glob("*.plan*"))


@pytest.mark.usefixtures("no_gpu")
def test_machines_without_a_gpu(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = fake_tensorrt("10.13").install(monkeypatch)
    with pytest.raises(NoBuilderError, match="no usable GPU"):
        build(source)
    monkeypatch.setitem(sys.modules, "pycuda", None)
    monkeypatch.setitem(sys.modules, "pycuda.driver", None)
    with pytest.raises(NoBuilderError, match="needs pycuda; install it with: pip install 'mfnet"):
        build(source)
    assert not fake.calls  # without a GPU, TensorRT's objects crash when they go


def test_options_that_mean_nothing() -> None:
    assert profile_from_text("1,8,16") == Profile(1, 8, 16)
    for text in ("8", "1,2", "a,b,c", "2,1,4", "0,1,2", "1,4,2"):
        with pytest.raises(UsageError, match=f"--batches {text}: expected"):
            profile_from_text(text)
    for options, part in (
        ({"level": 6}, "--opt-level 6: expected 0 to 5"),
        ({"workspace": 0.0}, "--workspace 0: expected GiB"),
        ({"hardware": "all"}, "--hardware-compatible all: not one of"),
    ):
        with pytest.raises(UsageError, match=part):
            PlanOptions(**options)
