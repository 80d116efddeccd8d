"""Builds as only full TensorRT does them, acted as recorded from three versions of it.

Whatever both flavours do is tested in `test_rtx`, with a real builder.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from fakes.fake_pycuda import FakePycuda
from fakes.fake_tensorrt import BUILDERS, FakeTensorRT, fake_tensorrt
from fakes.trt_builder import CACHE
from plans import gpu, no_gpu, write_attention
from support import write_rgbd_model

from mfnet_export.cli import main
from mfnet_export.files import ExportError
from mfnet_export.tensorrt.build import PlanReport, plan_from_onnx
from mfnet_export.tensorrt.machine import NoBuilderError, plan_machine
from mfnet_export.tensorrt.options import PlanOptions, plan_beside
from mfnet_runtime.backends.tensorrt.flavour import FULL, RTX
from mfnet_runtime.backends.tensorrt.plan_file import LayerCounts, Profile, facts_of_plan
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
def old(trt: FakeTensorRT) -> bool:
    return trt.version.startswith(OLD)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_attention(tmp_path / "best.fp16.onnx")


@pytest.fixture
def no_rtx(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without TensorRT for RTX."""
    for name in RTX.modules:
        monkeypatch.setitem(sys.modules, name, None)


def build(source: Path, **options: Any) -> PlanReport:
    return plan_from_onnx(source, plan_beside(source), PlanOptions(**options))


def flags_set(trt: FakeTensorRT) -> set[str]:
    return {flag.name for (flag,) in trt.called("IBuilderConfig.set_flag")}


def test_calls(trt: FakeTensorRT, old: bool, source: Path, gpu: FakePycuda) -> None:
    trt.script["build"] = gpu.driver.mem_get_info  # fails in a thread without the GPU's context
    build(source, batches=Profile(2, 4, 8))
    created = trt.module.NetworkDefinitionCreationFlag
    mode = created.EXPLICIT_BATCH if old else created.STRONGLY_TYPED
    assert trt.called("Builder.create_network") == [(1 << int(mode),)]
    assert flags_set(trt) == ({"FP16"} if old else set())
    assert [flag.name for (flag,) in trt.called("IBuilderConfig.clear_flag")] == ["TF32"]
    assert trt.called("IOptimizationProfile.set_shape") == [
        (name, *((batch, bands, 32, 32) for batch in (2, 4, 8)))
        for name, bands in (("image", 3), ("dsm", 1))
    ]
    ((verbosity,),) = trt.called("IBuilderConfig.profiling_verbosity=")
    assert verbosity.name == "DETAILED"
    assert len(trt.called("IBuilderConfig.progress_monitor=")) == (0 if old else 1)
    for untouched in ("set_memory_pool_limit", "set_tactic_sources", "builder_optimization_level="):
        assert not trt.called(f"IBuilderConfig.{untouched}")


def test_facts_beside_the_plan(trt: FakeTensorRT, source: Path) -> None:
    trt.script["log"] = [("WARNING", "subnormal FP16 weights"), ("INFO", "timing")]
    report = build(source)
    facts = facts_of_plan(report.output)
    assert facts == report.facts
    assert facts.plan_sha256 == sha256_from_file(report.output)
    assert facts.onnx_sha256 == sha256_from_file(source)
    assert (facts.flavour, facts.version) == ("tensorrt", trt.version)
    assert (facts.gpu, facts.cuda, facts.driver) == ("NVIDIA Test", "12.6", "12.4")
    assert facts.targets == ("sm87",)
    assert (facts.attentions, facts.counts) == (1, LayerCounts(7, 1))
    assert (facts.version_compatible, facts.hardware, facts.weights) == (False, "none", True)
    lines = report.lines()
    assert f"for sm87; TensorRT {trt.version}, built on NVIDIA Test, fp16" in lines[1]
    assert lines[-1] == f"next: mfnet-run {report.output} SCENES -o OUT"
    assert report.to_json()["warnings"] == ["subnormal FP16 weights"]


def test_fp32_is_never_run_in_fp16(trt: FakeTensorRT, tmp_path: Path) -> None:
    build(write_attention(tmp_path / "best.onnx", "fp32"))
    assert not flags_set(trt)


def test_fp32_nodes_of_an_fp16_file_stay_fp32(trt: FakeTensorRT, old: bool, tmp_path: Path) -> None:
    """Where networks are strongly typed, nothing has to be set."""
    source = write_attention(tmp_path / "best.fp16.onnx", island=True)
    build(source)
    kinds = [kind.name for (kind,) in trt.called("ILayer.precision=")]
    outputs = [(index, kind.name) for index, kind in trt.called("ILayer.set_output_type")]
    if not old:
        assert (flags_set(trt), kinds, outputs) == (set(), [], [])
        return
    assert flags_set(trt) == {"FP16", "OBEY_PRECISION_CONSTRAINTS"}
    assert (kinds, outputs) == (["FLOAT"], [(0, "FLOAT")])
    trt.script["renamed"] = "_1"  # then a node cannot be found among the layers
    with pytest.raises(ExportError, match=r"8\.6\.1 cannot be told to compute weigh in FP32"):
        build(source)
    assert len(trt.called("Builder.build_serialized_network")) == 1


def test_options_reach_tensorrt(
    trt: FakeTensorRT, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = "--opt-level 5 --workspace 1.5 --own-kernels --version-compatible --refittable"
    cache, plan = tmp_path / "timings", tmp_path / "other.plan"
    files = ["--timing-cache", str(cache), "-o", str(plan), "--hardware-compatible", "ampere-plus"]
    assert main(["--onnx", str(source), "--plan", "--json", *words.split(), *files]) == 0
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
    report = json.loads(capsys.readouterr().out)
    assert report["output"] == str(plan)
    assert (report["version_compatible"], report["hardware"]) == (True, "ampere_plus")
    assert report["targets"] == ["sm80+"]
    assert cache.is_file()


@pytest.mark.parametrize(
    ("level", "needed"), [("same_compute_capability", "7.5"), ("ampere_plus", "8.0")]
)
def test_plans_for_other_gpus(
    trt: FakeTensorRT, old: bool, source: Path, gpu: FakePycuda, level: str, needed: str
) -> None:
    if old and level != "ampere_plus":
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
def test_plans_without_weights(
    trt: FakeTensorRT, old: bool, source: Path, refittable: bool
) -> None:
    if old:
        with pytest.raises(UsageError, match=r"8\.6\.1 has no BuilderFlag\.STRIP_PLAN"):
            build(source, strip_weights=True, refittable=refittable)
        return
    report = build(source, strip_weights=True, refittable=refittable)
    assert flags_set(trt) == {"STRIP_PLAN", "REFIT" if refittable else "REFIT_IDENTICAL"}
    assert not report.facts.weights


def test_int8_needs_strong_types(trt: FakeTensorRT, old: bool, tmp_path: Path) -> None:
    source = write_rgbd_model(tmp_path / "best.int8.onnx", precision="int8")
    if old:
        with pytest.raises(ModelError, match=r"builds no INT8 plans; needs TensorRT 10 or newer"):
            build(source)
        return
    build(source)
    assert not flags_set(trt)


LOST = "illegal memory access"
BIG = "OutOfMemory (Requested size was 9 bytes.)"


@pytest.mark.parametrize(
    ("script", "kind", "part"),
    [
        ({"log": [("ERROR", "no kernel for mix")]}, ExportError, r"Test cannot build it \(no kern"),
        ({"log": [("ERROR", BIG)]}, ResourceError, r"Test ran out of memory .*\(OutOfMemory"),
        ({"log": [("ERROR", LOST)]}, DeviceLostError, "NVIDIA Test: .* the GPU stopped working"),
        ({"fails": False, "open": "bad tag"}, ExportError, r"just built does not load \(bad tag\)"),
    ],
)
def test_failed_builds_leave_the_old_plan(
    trt: FakeTensorRT,
    source: Path,
    gpu: FakePycuda,
    script: dict[str, Any],
    kind: type[Exception],
    part: str,
) -> None:
    def fail() -> None:
        gpu.machine.lost = kind is DeviceLostError

    plan = plan_beside(source)
    plan.write_text("old")
    trt.script |= {"build": fail, "fails": True, **script}
    with pytest.raises(kind, match=part):
        build(source)
    assert plan.read_text() == "old"
    assert sorted(os.listdir(plan.parent)) == [source.name, plan.name]
    if gpu.machine.lost:
        gpu.live.clear()  # a lost GPU gives nothing back


def test_layers_are_unknown_without_memory_to_load_the_plan(
    trt: FakeTensorRT, source: Path
) -> None:
    trt.script["open"] = BIG
    report = build(source)
    assert report.facts.counts == LayerCounts()
    assert "? layers, ? of 1 attentions fused" in "\n".join(report.lines())


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
    caplog: pytest.LogCaptureFixture,
    before: bytes | None,
    behaves: str | None,
    handed_over: list[bytes],
) -> None:
    caplog.set_level("INFO")
    cache = source.with_name("timings")
    if before is not None:
        cache.write_bytes(before)
    trt.script["cache"] = behaves
    build(source, timing_cache=cache)
    assert [given for (given,) in trt.called("IBuilderConfig.create_timing_cache")] == handed_over
    start = before if before is not None and behaves is None else CACHE
    assert cache.read_bytes() == start + b"and more "
    assert ("timings is damaged, or of another GPU" in caplog.text) == bool(behaves)
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


def test_machines_with_both_flavours(trt: FakeTensorRT) -> None:
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT for RTX is not installed")
    with plan_machine() as first, plan_machine(rtx=True) as second:
        assert (first.flavour, first.trt) == (FULL, trt.module)
        assert (second.flavour, second.device) == (RTX, None)


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
