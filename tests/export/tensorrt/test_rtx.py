"""Plans built by the real TensorRT for RTX, which needs no GPU for that."""

from __future__ import annotations

import errno
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from networks import random_network
from plans import write_attention
from support import RGBD

from mfnet_export.cli import main
from mfnet_export.files import ExportError
from mfnet_export.graph.export import onnx_from_network, save
from mfnet_export.graph.passes import allow_half_scales
from mfnet_export.precision.fp16_cast import cast_to_fp16
from mfnet_export.precision.qdq import linear_layers, move_biases, quantise
from mfnet_export.rewrites.steps import merge
from mfnet_export.tensorrt.build import PlanReport, plan_from_onnx
from mfnet_export.tensorrt.options import PlanOptions, plan_beside
from mfnet_runtime.backends.onnx_file import contract_in_onnx
from mfnet_runtime.backends.tensorrt.compatibility import require_digest
from mfnet_runtime.backends.tensorrt.plan_file import PORTABLE, Profile, facts_of_plan
from mfnet_runtime.contract import METADATA_KEY, Contract
from mfnet_runtime.errors import ModelError, ResourceError, UsageError
from mfnet_runtime.labels import ClassTable

rtx = pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT for RTX is not installed")

Capture = pytest.CaptureFixture[str]
Write = Callable[[str, str], Path]


@pytest.fixture(scope="module")
def fp32(tmp_path_factory: pytest.TempPathFactory) -> Write:
    """Write the FP32 file of a random network, once for each preset and tuning."""
    folder = tmp_path_factory.mktemp("rtx")

    def write(preset: str, tuning: str) -> Path:
        path = folder / f"{preset}.{tuning}.onnx"
        if not path.exists():
            window = {"small": 128, "tiny": 64}[preset]
            network = random_network(tuning, window=window, classes=6, preset=preset)
            contract = Contract(window, ClassTable.numbered(6))
            onnx_from_network(merge(network).network, contract, path)
        return path

    return write


@pytest.fixture(scope="module")
def fp16(fp32: Write) -> Write:
    """Write the FP16 file of such a network."""

    def write(preset: str, tuning: str) -> Path:
        source = fp32(preset, tuning)
        path = source.with_suffix(".fp16.onnx")
        if not path.exists():
            model = ir.load(source)
            cast_to_fp16(model, ())
            contract = replace(contract_in_onnx(source), precision="fp16")
            model.metadata_props[METADATA_KEY] = contract.to_json()
            save(model, path)
        return path

    return write


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_attention(tmp_path / "best.fp16.onnx")


def build(source: Path, out: Path, **options: Any) -> PlanReport:
    return plan_from_onnx(source, out / plan_beside(source).name, PlanOptions(**options))


def command(*words: str, first: str = "pass") -> subprocess.Popen[str]:
    """Start mfnet-export in a process of its own, where some code runs first."""
    code = f"import sys; sys.path[:] = {sys.path!r}; {first}; from mfnet_export.cli import main; "
    code += f"sys.exit(main({list(words)!r}))"
    return subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize("target", [(), ("sm75",), ("sm89",), ("sm75", "sm86", "sm120")])
def test_every_attention_is_fused_for_every_target(
    fp16: Write, tmp_path: Path, target: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    report = build(fp16("small", "lora"), tmp_path, target=target)
    facts, counts = report.facts, report.facts.counts
    assert facts.targets == (target or (PORTABLE,))
    assert (facts.attentions, counts.fused_attentions) == (8, 8)
    assert counts.layers is not None
    assert counts.layers > 100
    assert (counts.int8_layers, report.caution) == (0, "")
    assert (facts.flavour, facts.version) == ("rtx", rtx.__version__)
    assert (facts.gpu, facts.cuda, facts.driver) == (None, None, None)
    assert facts_of_plan(report.output) == facts
    assert any(re.fullmatch(r"Building engine \d/\d", text) for text in caplog.messages)


@pytest.mark.parametrize("target", [(), ("sm75",), ("sm89",)])
def test_int8_layers_of_a_file_with_fp16_parts(
    fp32: Write, tmp_path: Path, target: tuple[str, ...]
) -> None:
    source = fp32("small", "lora")
    model = ir.load(source)
    layers = linear_layers(model)
    quantise(model, {layer.source: np.ones(1, np.float32) for layer in layers})
    allow_half_scales(model)
    move_biases(model)
    cast_to_fp16(model)
    contract = replace(contract_in_onnx(source), precision="int8+fp16")
    model.metadata_props[METADATA_KEY] = contract.to_json()
    save(model, path := tmp_path / "best.int8.fp16.onnx")
    counts = build(path, tmp_path, target=target).facts.counts
    assert (counts.fused_attentions, counts.int8_layers) == (8, len(layers)) == (8, 32)


@pytest.mark.parametrize("tuning", ["adapter", "none"])
def test_other_tunings(fp16: Write, tmp_path: Path, tuning: str) -> None:
    facts = build(fp16("tiny", tuning), tmp_path, target=("sm75", "sm89")).facts
    assert facts.attentions
    assert facts.counts.fused_attentions == facts.attentions


def test_fp32_runs_unfused(fp32: Write, tmp_path: Path) -> None:
    report = build(fp32("tiny", "lora"), tmp_path)
    assert report.facts.counts.fused_attentions == 0
    assert "only plans of FP16 files (--fp16) have them fused" in report.caution


def test_fp32_nodes_of_an_fp16_file_are_counted(tmp_path: Path) -> None:
    plain = build(write_attention(tmp_path / "a.onnx"), tmp_path).facts.counts
    island = build(write_attention(tmp_path / "b.onnx", island=True), tmp_path).facts.counts
    assert plain.fp32_tensors == 0
    assert island.fused_attentions == 1


def test_an_fp16_file_without_any_fused_attention_is_refused(tmp_path: Path) -> None:
    source = write_attention(tmp_path / "a.fp16.onnx")
    model = onnx.load(source)
    softmax = next(node for node in model.graph.node if node.op_type == "Softmax")
    softmax.attribute[0].i = 1  # over the bands: still a Softmax, but not of an attention
    onnx.save(model, source)
    with pytest.raises(ExportError, match="fused none of its 1 attentions; export the file again"):
        build(source, tmp_path)
    assert os.listdir(tmp_path) == [source.name]


def test_the_command_and_inspect(source: Path, capsys: Capture) -> None:
    assert main(["--onnx", str(source), "--plan", "--debug", "--batches", "2,4,8"]) == 0
    captured = capsys.readouterr()
    assert not captured.err.startswith("error")
    plan = source.with_suffix(".plan")
    lines = captured.out.splitlines()
    assert f"for sm80+ (Ampere and later); TensorRT for RTX {rtx.__version__}" in lines[1]
    assert lines[2].strip() == "batches of 2 to 8, best at 4"
    assert "1 of 1 attentions fused" in lines[3]
    assert lines[-1].startswith(f"next: mfnet-run {plan} SCENES -o OUT")
    assert facts_of_plan(plan).profile == Profile(2, 4, 8)
    from mfnet_export.inspect_cli import main as inspect

    assert inspect([str(plan)]) == 0
    told = capsys.readouterr().out
    assert re.search(r"targets +sm80\+$", told, re.MULTILINE)
    assert re.search(r"layers .*1 of 1 attentions fused, 0 linear layers in INT8", told)


def test_neither_pytorch_nor_pycuda_is_needed(source: Path) -> None:
    absent = "sys.modules['torch'] = sys.modules['pycuda'] = None"
    with command("--onnx", str(source), "--plan", "--json", first=absent) as process:
        out, err = process.communicate()
    assert process.returncode == 0, err
    assert json.loads(out)["targets"] == [PORTABLE]


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ("--target sm90", "--target sm90: TensorRT for RTX .* builds for portable, sm75, .*sm120"),
        ("--target portable --target sm75", "--target portable includes all cards from Ampere"),
        ("--version-compatible", "--version-compatible is not for TensorRT for RTX"),
        ("--hardware-compatible ampere-plus", "--hardware-compatible is not for TensorRT for RTX"),
        ("--strip-weights", "--strip-weights is not for TensorRT for RTX"),
        ("--refittable", "--refittable is not for TensorRT for RTX"),
        ("--timing-cache t", "--timing-cache is not for TensorRT for RTX"),
        ("--own-kernels", "--own-kernels is not for TensorRT for RTX"),
    ],
)
def test_options_that_are_refused(source: Path, words: str, part: str, capsys: Capture) -> None:
    assert main(["--onnx", str(source), "--plan", *words.split()]) == 2
    assert re.search(part, capsys.readouterr().err)
    assert os.listdir(source.parent) == [source.name]


def test_turing_multiplies_no_fp32_matrices(tmp_path: Path) -> None:
    source = write_attention(tmp_path / "best.onnx", "fp32")
    with pytest.raises(UsageError, match=r"sm75: Turing has no FP32 plan.*from a file of --fp16"):
        build(source, tmp_path, target=("sm75", "sm89"))


def test_parser_errors_name_the_node(source: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    model = onnx.load(source)
    (mix,) = (node for node in model.graph.node if node.name == "mix")
    mix.op_type = "MatMull"
    onnx.save(model, source)
    with pytest.raises(ExportError, match=r"cannot read it \(mix \(MatMull\): .*[Pp]lugin"):
        build(source, source.parent)
    assert "mix (MatMull)" in caplog.messages[-1]
    assert os.listdir(source.parent) == [source.name]


def test_files_that_plans_are_not_built_from(tmp_path: Path) -> None:
    write_attention(tmp_path / "bf16.onnx", "bf16")
    lying = onnx.load(write_attention(tmp_path / "liar.onnx", "fp32"))
    contract = Contract(32, RGBD, precision="fp16")
    onnx.helper.set_model_props(lying, {METADATA_KEY: contract.to_json()})
    onnx.save(lying, tmp_path / "liar.onnx")
    (tmp_path / "text.onnx").write_text("no model")
    files = sorted(os.listdir(tmp_path))
    for name, kind, message in (
        ("bf16.onnx", ModelError, "is BF16, but plans are built from FP16"),
        ("liar.onnx", ModelError, "its contract implies"),
        ("text.onnx", ModelError, r"text\.onnx: not a usable ONNX file"),
        ("none.onnx", UsageError, r"none\.onnx: no such file"),
    ):
        with pytest.raises(kind, match=message):
            build(tmp_path / name, tmp_path)
    with pytest.raises(UsageError, match=r"best\.engine: expected a name ending in \.plan"):
        plan_from_onnx(tmp_path / "liar.onnx", tmp_path / "best.engine", PlanOptions())
    assert sorted(os.listdir(tmp_path)) == files


def test_weights_beside_the_file_are_read(tmp_path: Path) -> None:
    source = write_attention(tmp_path / "large.fp16.onnx", beside=True)
    assert build(source, tmp_path).facts.counts.fused_attentions == 1
    source.with_name("large.fp16.onnx.data").write_bytes(b"")
    with pytest.raises(ExportError, match=r"cannot read it \(graph \(no node\): .*scale"):
        build(source, tmp_path)


def test_builder_errors_give_the_reason(
    fp32: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mfnet_export.tensorrt.build.require_buildable", lambda *_: None)
    with pytest.raises(ExportError, match=r"cannot build it \(.*FP32 GEMM is not supported"):
        build(fp32("tiny", "lora"), tmp_path, target=("sm75",))
    assert not os.listdir(tmp_path)


def test_an_interrupt_ends_the_build(fp16: Write, tmp_path: Path) -> None:
    """Nothing is left, and the old plan stays."""
    plan = tmp_path / "a.plan"
    plan.write_text("old")
    words = ("--onnx", str(fp16("small", "lora")), "--plan", "-o", str(plan))
    with command(*words) as process:
        assert process.stderr is not None
        assert any("Building engine" in line for line in process.stderr)
        process.send_signal(signal.SIGINT)
        started = time.monotonic()
        said = process.communicate()[1]
    assert time.monotonic() - started < 15
    assert process.returncode == 130
    assert "stopping: TensorRT ends at its next step" in said
    assert os.listdir(tmp_path) == [plan.name]
    assert plan.read_text() == "old"


def test_a_full_disk(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write_bytes(path: Path, content: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", write_bytes)
    with pytest.raises(ResourceError, match="cannot be written"):
        build(source, source.parent)
    assert os.listdir(source.parent) == [source.name]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_of_a_build(fp16: Write, tmp_path: Path) -> None:
    """Peak memory of the process: Python, TensorRT's libraries and the build."""
    source = fp16("small", "lora")
    code = (
        f"import re, sys; sys.path[:] = {sys.path!r}; from mfnet_export.cli import main; "
        f"main(['--onnx', {str(source)!r}, '--plan', '-o', {str(tmp_path / 'a.plan')!r}]); "
        "print(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.splitlines()[-1]) < 800_000, "KiB"


def test_damaged_plans_are_refused(source: Path) -> None:
    build(source, source.parent)
    plan = source.with_suffix(".plan")
    facts, content = facts_of_plan(plan), bytearray(plan.read_bytes())
    rng = random.Random(0)
    for place in rng.sample(range(len(content)), 10_000):
        content[place] ^= 1 << rng.randrange(8)
        with pytest.raises(ModelError, match="its SHA-256 is"):
            require_digest(plan, facts, bytes(content))
