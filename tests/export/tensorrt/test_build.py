"""Plans built by an acted TensorRT, recorded from three versions."""

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
from fakes.fake_tensorrt import BUILDERS, FakeTensorRT, fake_tensorrt
from fakes.trt_builder import CACHE
from fakes.trt_runtime import plan_from_bytes
from plans import gpu, no_gpu, write_attention
from support import RGBD, write_rgbd_model

from mfnet_export.files import ExportError
from mfnet_export.tensorrt.build import PlanReport, plan_from_onnx
from mfnet_export.tensorrt.layers import counts_from_inspector
from mfnet_export.tensorrt.machine import NoBuilderError
from mfnet_export.tensorrt.options import PlanOptions, plan_beside
from mfnet_export.tensorrt.progress import Watch, run_watched
from mfnet_runtime.backends.tensorrt.flavour import RTX
from mfnet_runtime.backends.tensorrt.plan_file import LayerCounts, Profile, facts_of_plan
from mfnet_runtime.contract import METADATA_KEY, Contract
from mfnet_runtime.errors import DeviceLostError, ModelError, ResourceError, UsageError
from mfnet_runtime.files import sha256_from_file

__all__ = ["gpu", "no_gpu"]
OLD = "8.6"


@pytest.fixture(params=BUILDERS)
def trt(
    request: pytest.FixtureRequest, gpu: FakePycuda, monkeypatch: pytest.MonkeyPatch
) -> FakeTensorRT:
    return fake_tensorrt(request.param).install(monkeypatch)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_attention(tmp_path / "best.fp16.onnx")


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level("INFO")
    return caplog


def build(source: Path, **options: Any) -> PlanReport:
    return plan_from_onnx(source, plan_beside(source), PlanOptions(**options))


@pytest.fixture
def no_rtx(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without TensorRT for RTX."""
    for name in RTX.modules:
        monkeypatch.setitem(sys.modules, name, None)


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
    trt.script["log"] = [("WARNING", "subnormal FP16 weights"), ("INFO", "timing")]
    report = build(source, batches=Profile(2, 4, 8))
    plan = source.with_name("best.fp16.plan")
    facts = facts_of_plan(plan)
    assert facts == report.facts
    assert facts.plan_sha256 == sha256_from_file(plan)
    assert facts.onnx_sha256 == sha256_from_file(source)
    assert (facts.flavour, facts.version) == ("tensorrt", trt.version)
    assert (facts.gpu, facts.cuda, facts.driver) == ("NVIDIA Test", "12.6", "12.4")
    assert facts.targets == ("sm87",)
    assert (facts.profile, facts.contract.precision) == (Profile(2, 4, 8), "fp16")
    assert (facts.attentions, facts.counts) == (1, LayerCounts(7, 1))
    assert (facts.version_compatible, facts.hardware, facts.weights) == (False, "none", True)
    assert not report.caution
    lines = "\n".join(report.lines())
    assert f"for sm87; TensorRT {trt.version}, built on NVIDIA Test, fp16" in lines
    assert "batches of 2 to 8, best at 4" in lines
    assert "7 layers, 1 of 1 attentions fused" in lines
    data = json.loads(json.dumps(report.to_json()))
    assert (data["attentions"], data["warnings"]) == (1, ["subnormal FP16 weights"])
    assert sorted(os.listdir(source.parent)) == [source.name, plan.name, f"{plan.name}.json"]


def test_fp32_is_never_run_in_fp16(trt: FakeTensorRT, tmp_path: Path) -> None:
    report = build(write_attention(tmp_path / "best.onnx", "fp32"))
    assert report.output.name == "best.plan"
    assert not flags_set(trt)
    assert report.facts.contract.precision == "fp32"


def test_fp32_nodes_of_an_fp16_file_stay_fp32(trt: FakeTensorRT, tmp_path: Path) -> None:
    """Where networks are strongly typed, nothing has to be set."""
    source = write_attention(tmp_path / "best.fp16.onnx", island=True)
    build(source)
    kinds = [kind.name for (kind,) in trt.called("ILayer.precision=")]
    outputs = [(index, kind.name) for index, kind in trt.called("ILayer.set_output_type")]
    if not trt.version.startswith(OLD):
        assert (flags_set(trt), kinds, outputs) == (set(), [], [])
        return
    assert flags_set(trt) == {"FP16", "OBEY_PRECISION_CONSTRAINTS"}
    assert (kinds, outputs) == (["FLOAT"], [(0, "FLOAT")])
    trt.script["renamed"] = "_1"  # then a node cannot be found among the layers
    with pytest.raises(ExportError, match=r"8\.6\.1 cannot be told to compute weigh in FP32"):
        build(source)
    assert len(trt.called("Builder.build_serialized_network")) == 1


@pytest.mark.usefixtures("above_2_gib")
def test_weights_beside_the_file_are_read(trt: FakeTensorRT, tmp_path: Path) -> None:
    source = write_attention(tmp_path / "large.fp16.onnx", beside=True)
    assert (tmp_path / "large.fp16.onnx.data").is_file()
    plan = plan_from_bytes(build(source).output.read_bytes())
    assert plan is not None
    assert b"large.fp16.onnx.data" not in plan.onnx


def test_options_reach_tensorrt(trt: FakeTensorRT, source: Path) -> None:
    options = {"opt_level": 5, "workspace": 1.5, "own_kernels": True}
    report = build(source, **options, version_compatible=True, refittable=True)
    assert trt.called("IBuilderConfig.builder_optimization_level=") == [(5,)]
    ((pool, size),) = trt.called("IBuilderConfig.set_memory_pool_limit")
    assert (pool.name, size) == ("WORKSPACE", 3 << 29)
    ((sources,),) = trt.called("IBuilderConfig.set_tactic_sources")
    members = trt.module.TacticSource.__members__.items()
    left = {name for name, source in members if sources & 1 << int(source)}
    assert left == {"EDGE_MASK_CONVOLUTIONS", "JIT_CONVOLUTIONS"}
    assert flags_set(trt) - {"FP16"} == {"VERSION_COMPATIBLE", "REFIT"}
    ((flag,),) = trt.called("OnnxParser.set_flag")
    assert flag.name == "NATIVE_INSTANCENORM"
    assert report.facts.version_compatible


@pytest.mark.parametrize(
    ("level", "needed"), [("same_compute_capability", "7.5"), ("ampere_plus", "8.0")]
)
def test_plans_for_other_gpus(
    trt: FakeTensorRT, source: Path, gpu: FakePycuda, level: str, needed: str
) -> None:
    if trt.version.startswith(OLD) and level != "ampere_plus":
        with pytest.raises(UsageError, match=r"8\.6\.1 has no HardwareCompatibilityLevel\.SAME"):
            build(source, hardware_compatible=level)
    else:
        assert build(source, hardware_compatible=level).facts.hardware == level
        ((given,),) = trt.called("IBuilderConfig.hardware_compatibility_level=")
        assert given.name == level.upper()
    gpu.compute_capability = (7, 2)
    with pytest.raises(UsageError, match=f"has compute capability 7.2, needed is {needed}"):
        build(source, hardware_compatible=level)


@pytest.mark.parametrize("refittable", [False, True])
def test_plans_without_weights(trt: FakeTensorRT, source: Path, refittable: bool) -> None:
    if trt.version.startswith(OLD):
        with pytest.raises(UsageError, match=r"8\.6\.1 has no BuilderFlag\.STRIP_PLAN"):
            build(source, strip_weights=True, refittable=refittable)
        return
    report = build(source, strip_weights=True, refittable=refittable)
    assert flags_set(trt) == {"STRIP_PLAN", "REFIT" if refittable else "REFIT_IDENTICAL"}
    assert not report.facts.weights


def old_plan(source: Path) -> Path:
    plan = source.with_name("best.fp16.plan")
    plan.write_text("old")
    return plan


def assert_untouched(plan: Path) -> None:
    assert plan.read_text() == "old"
    assert sorted(os.listdir(plan.parent)) == ["best.fp16.onnx", plan.name]


def test_parser_faults_name_node_and_operator(
    trt: FakeTensorRT, source: Path, log: pytest.LogCaptureFixture
) -> None:
    plan = old_plan(source)
    node = {"node": 2, "node_name": "softmax", "node_operator": "Softmax"}
    trt.script["parse_errors"] = [
        {"desc": "Unsupported\n type", **node},
        {"desc": "no graph", "node": -1},
    ]
    with pytest.raises(ExportError, match=r"cannot read it \(softmax \(Softmax\): Unsupported ty"):
        build(source)
    faults = ["softmax (Softmax): Unsupported type", "graph (no node): no graph"]
    assert log.messages[-2:] == faults
    assert_untouched(plan)


@pytest.mark.parametrize(
    ("said", "kind", "part"),
    [
        ("no implementation for node mix", ExportError, "node mix); try another --opt-level"),
        ("OutOfMemory (Requested size was 9 bytes.)", ResourceError, "ran out of memory while"),
    ],
)
def test_failed_builds_give_the_reason(
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


def test_a_gpu_that_fails_during_the_build(
    trt: FakeTensorRT, gpu: FakePycuda, source: Path
) -> None:
    def fail() -> None:
        gpu.machine.lost = True

    plan = old_plan(source)
    trt.script |= {"build": fail, "fails": True, "log": [("ERROR", "illegal memory access")]}
    with pytest.raises(DeviceLostError, match=r"NVIDIA Test: .* the GPU stopped working"):
        build(source)
    assert_untouched(plan)
    gpu.live.clear()  # a lost GPU gives nothing back


def test_faults_of_the_build_and_of_the_plan_leave_the_old_plan(
    trt: FakeTensorRT, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash() -> None:
        raise RuntimeError("in another thread")

    plan = old_plan(source)
    trt.script["build"] = crash
    with pytest.raises(RuntimeError, match="in another thread"):
        build(source)
    del trt.script["build"]
    monkeypatch.setattr("fakes.trt_runtime.plan_from_bytes", lambda data: None)
    with pytest.raises(ExportError, match="just built does not load"):
        build(source)
    assert_untouched(plan)


def interrupt() -> None:
    """Send Ctrl-C from another thread."""
    time.sleep(0.05)
    signal.pthread_kill(main_thread().ident or 0, signal.SIGINT)


def test_an_interrupt_ends_the_build(
    trt: FakeTensorRT, source: Path, log: pytest.LogCaptureFixture
) -> None:
    """It stops at the next step; TensorRT 8.6 has no monitor and builds to the end."""
    plan = old_plan(source)
    trt.script |= {"build": interrupt, "pause": 0.02, "steps": 500}
    with pytest.raises(KeyboardInterrupt):
        build(source)
    assert log.messages[-1] == "stopping: TensorRT ends at its next step"
    monitored = hasattr(trt.module, "IProgressMonitor")
    assert (0 < trt.script["reached"] < 500) if monitored else "reached" not in trt.script
    assert_untouched(plan)


def test_a_second_interrupt_does_not_wait() -> None:
    watch, ended = Watch(), Event()

    def call() -> None:
        for _ in range(2):
            interrupt()
        ended.wait(10)

    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_watched(call, watch)
    assert watch.stopped
    assert time.monotonic() - started < 5
    ended.set()


def test_progress_is_logged(
    trt: FakeTensorRT,
    source: Path,
    log: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """TensorRT reports little while it times kernels: then the elapsed time is logged."""
    trt.script |= {"pause": 0.12, "steps": 4}
    build(source)
    first, *phases = log.messages
    assert first == f"building with TensorRT {trt.version} on NVIDIA Test, which can take minutes"
    assert set(phases) <= {"Building 1/4", "Building 2/4", "Building 3/4", "Building 4/4"}
    assert bool(phases) == hasattr(trt.module, "IProgressMonitor")
    monkeypatch.setattr("mfnet_export.tensorrt.progress.QUIET", 0)
    trt.script = {"build": lambda: time.sleep(0.5)}
    build(source)
    assert "still building after 0 min" in log.messages


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
    log: pytest.LogCaptureFixture,
    before: bytes | None,
    behaves: str | None,
    handed_over: list[bytes],
) -> None:
    cache = source.with_name("timings")
    if before is not None:
        cache.write_bytes(before)
    trt.script["cache"] = behaves
    build(source, timing_cache=cache)
    assert [given for (given,) in trt.called("IBuilderConfig.create_timing_cache")] == handed_over
    start = before if before is not None and behaves is None else CACHE
    assert cache.read_bytes() == start + b"and more "
    assert ("timings is damaged, or of another GPU" in log.text) == bool(behaves)
    assert [ignore for _, ignore in trt.called("IBuilderConfig.set_timing_cache")][-1] is False


def test_a_failed_build_leaves_the_timing_cache(trt: FakeTensorRT, source: Path) -> None:
    with pytest.raises(UsageError, match="absent: not a folder"):
        build(source, timing_cache=source.with_name("absent") / "timings")
    assert not trt.called("Builder.build_serialized_network")
    cache = source.with_name("timings")
    cache.write_bytes(b"of last time")
    trt.script["fails"] = True
    with pytest.raises(ExportError):
        build(source, timing_cache=cache)
    assert cache.read_bytes() == b"of last time"


def test_files_that_plans_are_not_built_from(trt: FakeTensorRT, tmp_path: Path) -> None:
    plan = tmp_path / "best.plan"
    write_rgbd_model(tmp_path / "bf16.onnx", precision="bf16")
    if trt.version.startswith(OLD):
        int8 = write_rgbd_model(tmp_path / "int8.onnx", precision="int8")
        with pytest.raises(ModelError, match=r"builds no INT8 plans; needs TensorRT 10 or newer"):
            plan_from_onnx(int8, plan, PlanOptions())
    liar = write_rgbd_model(tmp_path / "liar.onnx")
    model = onnx.load(liar)
    contract = Contract(32, RGBD, precision="fp16")
    onnx.helper.set_model_props(model, {METADATA_KEY: contract.to_json()})
    onnx.save(model, liar)
    (tmp_path / "text.onnx").write_text("no model")
    for name, kind, message in (
        ("bf16.onnx", ModelError, "is BF16, but plans are built from FP16"),
        ("liar.onnx", ModelError, "its contract implies"),
        ("text.onnx", ModelError, r"text\.onnx: not a usable ONNX file"),
        ("none.onnx", UsageError, r"none\.onnx: no such file"),
    ):
        with pytest.raises(kind, match=message):
            plan_from_onnx(tmp_path / name, plan, PlanOptions())
    with pytest.raises(UsageError, match=r"best\.engine: expected a name ending in \.plan"):
        plan_from_onnx(liar, tmp_path / "best.engine", PlanOptions())
    assert not plan.exists()
    assert not trt.called("Builder.build_serialized_network")


def test_machines_without_tensorrt(
    source: Path,
    gpu: FakePycuda,
    no_rtx: None,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    message = r"needs tensorrt; .*'mfnet\[gpu\]'; or TensorRT for RTX, .*'mfnet\[rtx\]'"
    with pytest.raises(NoBuilderError, match=message):
        build(source)
    with pytest.raises(NoBuilderError, match=r"needs tensorrt_rtx; .*pip install 'mfnet\[rtx\]'"):
        build(source, target=("sm89",))
    ancient = ModuleType("tensorrt")
    ancient.__version__ = "8.5.3"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tensorrt", ancient)
    with pytest.raises(NoBuilderError, match=r"TensorRT 8\.5\.3 is installed; needs 8\.6 or newer"):
        build(source)
    monkeypatch.delitem(sys.modules, "tensorrt")
    (tmp_path / "tensorrt.py").write_text("raise ImportError('libnvinfer.so.10: cannot open')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(NoBuilderError, match=r"does not load \(libnvinfer\.so\.10: cannot open\)"):
        build(source)
    assert not list(tmp_path.glob("*.plan*"))


@pytest.mark.usefixtures("no_gpu", "no_rtx")
def test_machines_without_a_gpu(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = fake_tensorrt("10.13").install(monkeypatch)
    with pytest.raises(NoBuilderError, match="no usable GPU"):
        build(source)
    monkeypatch.setitem(sys.modules, "pycuda", None)
    monkeypatch.setitem(sys.modules, "pycuda.driver", None)
    with pytest.raises(NoBuilderError, match="needs pycuda; install it with: pip install 'mfnet"):
        build(source)
    assert not fake.calls  # without a GPU, TensorRT's objects crash when they are released


def layer(name: str, kind: str = "kgen", tactic: str = "", metadata: str = "") -> dict[str, Any]:
    return {"Name": name, "LayerType": kind, "TacticName": tactic, "Metadata": metadata}


# Named by TensorRT: the first two in reports on 10.x, the others known to NVIDIA's own tools.
FUSED = [
    layer("_gemm_mha_v2_myl0_17", tactic="_gemm_mha_v2_0x957a2fe283f77dcf"),
    layer("__mye6916", tactic="fmha_v2_flash_attention_fp16_S_128_sm90"),
    layer("kgen_mha_0"),
    layer("fused_multihead_attention_12"),
]
OTHERS = [
    layer("node_MatMul_3", "gemm", "sm80_xmma_gemm_f16f16_tilesize32x32x64", "/mha/attn/MatMul"),
    layer("node_alphamhax"),
    layer("__myl_Soft_myl0_4"),
]
IDLE = [layer("__mye6918", "signal"), layer("__mye6920", "wait"), layer("s", "shape_call")]
OPAQUE = layer("{ForeignNode[node_conv2d...node_Reshape_9]}", "Myelin")


@pytest.mark.parametrize("entry", FUSED)
def test_fused_attention_is_known_by_name(entry: dict[str, Any]) -> None:
    text = json.dumps({"Layers": [entry, *OTHERS], "Bindings": ["image", "dsm", "logits"]})
    assert counts_from_inspector(text) == LayerCounts(4, 1)
    names = json.dumps({"Layers": [entry["Name"], *(other["Name"] for other in OTHERS)]})
    by_tactic_only = entry["TacticName"].startswith("fmha")
    assert counts_from_inspector(names) == LayerCounts(4, 0 if by_tactic_only else 1)


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        (json.dumps({"Layers": [*IDLE, *OTHERS]}), LayerCounts(3, 0)),
        (json.dumps({"Layers": [OPAQUE, *OTHERS]}), LayerCounts(4)),
        *((text, LayerCounts()) for text in ("", "null", "{}", '{"Layers": null}', "Layer(...)")),
    ],
)
def test_layers_that_do_not_count(text: str, counts: LayerCounts) -> None:
    assert counts_from_inspector(text) == counts


def test_unfused_attention_is_a_caution(trt: FakeTensorRT, source: Path) -> None:
    trt.script["layers"] = [{"Name": "mix", "LayerType": "gemm", "TacticName": "sm90_xmma"}]
    report = build(source)
    assert report.facts.counts.fused_attentions == 0
    assert report.caution.startswith("0 fused attention kernels for 1 attentions")
    assert report.lines()[-2].strip() == f"warning: {report.caution}"
    trt.script["layers"] = [OPAQUE]
    hidden = build(source)
    assert hidden.facts.counts == LayerCounts(1)
    assert not hidden.caution
    assert "1 layers, ? of 1 attentions fused" in "\n".join(hidden.lines())
