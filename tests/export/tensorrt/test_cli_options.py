"""`mfnet-export` and plans: from a checkpoint in one go, or later from an ONNX file."""

from __future__ import annotations

import _thread
import json
import os
import subprocess
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from fakes.fake_tensorrt import VERSIONS, FakeTensorRT, fake_tensorrt
from plans import gpu, no_gpu, write_attention

import mfnet_export.export
import mfnet_export.rewrites.steps
from mfnet_export.cli import main
from mfnet_export.validation.parity import ParityReport
from mfnet_runtime.backends.tensorrt.plan_file import Profile, facts_of_plan

if TYPE_CHECKING:
    from export.conftest import Made

__all__ = ["gpu", "no_gpu"]
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def trt(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> FakeTensorRT:
    return fake_tensorrt("10.13").install(monkeypatch)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_attention(tmp_path / "best.fp16.onnx")


@dataclass(frozen=True)
class Halved:
    """What stands for the report on an FP16 file."""

    output: Path

    def to_json(self) -> dict[str, str]:
        return {"output": str(self.output)}

    def lines(self) -> list[str]:
        return [f"fp16      {self.output}"]


@pytest.fixture
def best(best: Path, cheap: None, made: Made, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint alone in its folder, whose files and numbers are there already."""

    def fp16_from_onnx(source: Path, target: Path, *_: object, **options: object) -> Halved:
        return Halved(write_attention(target))

    said = made.report["parity"]
    names = [field.name for field in fields(ParityReport) if field.name != "gate"]
    parity = ParityReport(**{name: said[name] for name in names})
    monkeypatch.setattr(mfnet_export.export, "fp16_from_onnx", fp16_from_onnx)
    monkeypatch.setattr(mfnet_export.export, "_parity", lambda *_: parity)
    monkeypatch.setattr(mfnet_export.rewrites.steps, "gflop_from_network", lambda _: 1.0)
    return best


def run(*words: object) -> int:
    return main([str(word) for word in words])


def refused(capsys: Capture, code: int, expected: int, part: str) -> None:
    captured = capsys.readouterr()
    assert code == expected, captured.err
    assert not captured.out
    assert part in captured.err.splitlines()[-1]
    assert "Traceback" not in captured.err


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.usefixtures("gpu")
def test_plan_of_an_onnx_file(
    version: str, source: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    trt = fake_tensorrt(version).install(monkeypatch)
    words = "--plan --batches 1,8,32 --opt-level 4 --workspace 2 --own-kernels --refittable"
    assert run("--onnx", source, *words.split(), "--hardware-compatible", "ampere-plus") == 0
    captured = capsys.readouterr()
    plan = source.with_name("best.fp16.plan")
    lines = captured.out.splitlines()
    assert lines[0].startswith(f"plan      {plan}  ")
    assert lines[-1] == f"next: mfnet-run {plan} SCENES -o OUT"
    first = captured.err.splitlines()[0]
    assert first == f"building with TensorRT {trt.version} on NVIDIA Test, which takes minutes"
    facts = facts_of_plan(plan)
    assert (facts.profile, facts.hardware) == (Profile(1, 8, 32), "ampere_plus")
    assert trt.called("IBuilderConfig.builder_optimization_level=") == [(4,)]
    assert trt.called("IBuilderConfig.set_tactic_sources")
    assert trt.called("IBuilderConfig.set_memory_pool_limit")[0][1] == 2 << 30


def test_plan_where_and_how_it_is_wanted(trt: FakeTensorRT, source: Path, capsys: Capture) -> None:
    out = source.with_name("other.plan")
    words = "--plan --json --version-compatible --strip-weights"
    cache = source.with_name("timings")
    assert run("--onnx", source, *words.split(), "-o", out, "--timing-cache", cache) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["output"] == str(out)
    assert report["gpu"] == "NVIDIA Test"
    assert (report["version_compatible"], report["weights"]) == (True, False)
    assert cache.is_file()
    assert not source.with_name("best.fp16.plan").exists()


def test_fp16_yields_a_plan_where_one_can_be_built(
    trt: FakeTensorRT, best: Path, capsys: Capture
) -> None:
    assert run("--ckpt", best, "--fp16", "--windows", 1) == 0
    lines = capsys.readouterr().out.splitlines()
    plan, onnx = best.with_name("best.fp16.plan"), best.with_name("best.fp16.onnx")
    assert lines[-1] == f"next: mfnet-run {plan} SCENES -o OUT"
    assert sum(line.startswith("next:") for line in lines) == 1
    facts = facts_of_plan(plan)
    assert facts.contract.precision == "fp16"
    assert facts.fused_attentions == 1
    assert trt.called("OnnxParser.parse_from_file") == [(str(onnx),)]
    names = ["best.fp16.onnx", "best.fp16.plan", "best.fp16.plan.json", "best.onnx", "best.pt"]
    assert sorted(os.listdir(best.parent)) == names


def test_fp16_alone_says_what_is_missing_for_a_plan(
    best: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    assert run("--ckpt", best, "--fp16", "--windows", 1) == 0
    onnx = best.with_name("best.fp16.onnx")
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == (
        f"next: on the GPU's machine, mfnet-export --onnx {onnx} --plan "
        "(not here: needs tensorrt; install it with: pip install 'mfnet[gpu]')"
    )
    assert sorted(os.listdir(best.parent)) == ["best.fp16.onnx", "best.onnx", "best.pt"]


def test_a_plan_asked_for_that_cannot_be_built_is_refused_before_all_work(
    best: Path, source: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    part = "needs tensorrt; install it with: pip install 'mfnet[gpu]'"
    refused(capsys, run("--ckpt", best, "--fp16", "--plan"), 3, part)
    refused(capsys, run("--onnx", source, "--plan"), 3, part)
    assert sorted(os.listdir(best.parent)) == ["best.fp16.onnx", "best.pt"]


@pytest.mark.usefixtures("no_gpu")
def test_without_a_gpu(source: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    fake_tensorrt("11.4").install(monkeypatch)
    refused(capsys, run("--onnx", source, "--plan"), 3, "no usable GPU")


def test_fp32_checkpoints_have_plans_too(trt: FakeTensorRT, best: Path, capsys: Capture) -> None:
    assert run("--ckpt", best, "--plan", "--windows", 1, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["plan"]["output"] == str(best.with_name("best.plan"))
    assert report["plan"]["contract"]["precision"] == "fp32"


def test_a_failed_build_leaves_the_onnx_files_and_says_so(
    trt: FakeTensorRT, best: Path, capsys: Capture
) -> None:
    trt.script |= {"fails": True, "log": [("ERROR", "no kernel for node_conv2d")]}
    code = run("--ckpt", best, "--plan", "--windows", 1)
    refused(capsys, code, 3, "no kernel for node_conv2d")
    assert sorted(os.listdir(best.parent)) == ["best.onnx", "best.pt"]
    code = run("--onnx", best.with_name("best.onnx"), "--plan")
    refused(capsys, code, 3, "try another --opt-level")
    trt.script["log"] = [("ERROR", "OutOfMemory")]
    code = run("--ckpt", best, "--plan", "--windows", 1)
    refused(capsys, code, 5, "(best.onnx is written)")


def test_an_interrupt_is_one_line(trt: FakeTensorRT, source: Path, capsys: Capture) -> None:
    trt.script |= {"build": _thread.interrupt_main, "pause": 0.02, "steps": 500}
    code = run("--onnx", source, "--plan")
    refused(capsys, code, 130, "interrupted; no partial output was kept")
    assert os.listdir(source.parent) == [source.name]


def test_what_the_parser_refuses_is_told_line_by_line(
    trt: FakeTensorRT, source: Path, capsys: Capture
) -> None:
    trt.script["parse_errors"] = [{"desc": "bad axis", "node": 1}, {"desc": "bad type", "node": 2}]
    assert run("--onnx", source, "--plan") == 3
    lines = capsys.readouterr().err.splitlines()
    assert lines[1:3] == ["scores (MatMul): bad axis", "softmax (Softmax): bad type"]
    assert "cannot read it (scores (MatMul): bad axis)" in lines[3]
    assert len(lines) == 4


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ("--plan", "give either a checkpoint, --ckpt, or an ONNX file, --onnx"),
        ("--ckpt a.pt --onnx a.onnx --plan", "give either a checkpoint"),
        ("--onnx a.onnx", "--onnx builds a plan and nothing else; add --plan"),
        ("--onnx a.onnx --plan --scenes s", "--scenes goes with --ckpt, not with --onnx"),
        ("--onnx a.onnx --plan --fp16", "--fp16 goes with --ckpt"),
        ("--onnx a.onnx --plan --windows 4", "--windows goes with --ckpt"),
        ("--ckpt a.pt --batches 1,2,4", "options of plans go with --plan"),
        ("--ckpt a.pt --refittable", "options of plans go with --plan"),
        ("--ckpt a.pt --plan --batches 4,2,1", "--batches 4,2,1: expected three ascending"),
        ("--onnx a.onnx --plan --opt-level 9", "--opt-level 9: expected 0 to 5"),
        ("--onnx a.onnx --plan", "a.onnx: no such file; give an ONNX file with --onnx"),
    ],
)
def test_options_that_mean_nothing(
    words: str, part: str, trt: FakeTensorRT, capsys: Capture
) -> None:
    refused(capsys, run(*words.split()), 2, part)
    assert not trt.calls


def test_plans_of_onnx_files_need_no_pytorch(source: Path) -> None:
    """As on the machine with the GPU, which has TensorRT in its place."""
    words = ["--onnx", str(source), "--plan"]
    code = (
        "import sys; sys.modules['torch'] = sys.modules['tensorrt'] = None; "
        f"sys.path[:] = {sys.path!r}; from mfnet_export.cli import main; sys.exit(main({words!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 3
    assert "needs tensorrt" in done.stderr
