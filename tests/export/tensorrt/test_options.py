"""`mfnet-export` and plans: with a checkpoint in one go, or later from an ONNX file."""

from __future__ import annotations

import errno
import json
import os
import sys
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from networks import use_export
from plans import write_attention

import mfnet_export.export
from mfnet_export.cli import main
from mfnet_export.precision.accuracy import PrecisionReport
from mfnet_export.tensorrt.options import profile_from_text
from mfnet_export.validation.parity import ParityReport
from mfnet_runtime.backends.tensorrt.flavour import FULL, RTX
from mfnet_runtime.backends.tensorrt.plan_file import Profile, facts_of_plan
from mfnet_runtime.errors import UsageError
from mfnet_runtime.files import sha256_from_file

if TYPE_CHECKING:
    from export.conftest import Made

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def rtx(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with TensorRT for RTX alone."""
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT for RTX is not installed")
    monkeypatch.setitem(sys.modules, "tensorrt", None)


@pytest.fixture
def best(best: Path, cheap: None, made: Made, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint alone in its folder, whose ONNX files and parity cost nothing."""

    def fp16_from_onnx(source: Path, target: Path, *_: object) -> PrecisionReport:
        return PrecisionReport("fp16", write_attention(target), 1, {}, [])

    known = made.report["parity"]
    names = [field.name for field in fields(ParityReport) if field.name != "gate"]
    parity = ParityReport(**{name: known[name] for name in names})
    monkeypatch.setattr(mfnet_export.export, "fp16_from_onnx", fp16_from_onnx)
    monkeypatch.setattr(mfnet_export.export, "_parity", lambda *_: parity)
    return best


def run(*words: object) -> int:
    return main([str(word) for word in words])


def assert_refused(capsys: Capture, code: int, expected: int, part: str) -> None:
    captured = capsys.readouterr()
    assert code == expected, captured.err
    assert not captured.out
    assert part in captured.err.splitlines()[-1]
    assert "Traceback" not in captured.err


@pytest.mark.usefixtures("rtx")
def test_fp16_includes_a_plan_on_a_machine_that_can_build_one(best: Path, capsys: Capture) -> None:
    assert run("--ckpt", best, "--fp16", "--windows", 1) == 0
    lines = capsys.readouterr().out.splitlines()
    plan = best.with_name("best.fp16.plan")
    assert lines[-1].startswith(f"next: mfnet-run {plan} SCENES -o OUT")
    assert sum(line.startswith("next:") for line in lines) == 1
    facts = facts_of_plan(plan)
    assert facts.contract.precision == "fp16"
    assert facts.onnx_sha256 == sha256_from_file(best.with_name("best.fp16.onnx"))
    names = ["best.fp16.onnx", "best.fp16.plan", "best.fp16.plan.json", "best.onnx", "best.pt"]
    assert sorted(os.listdir(best.parent)) == names


def test_machines_that_cannot_build_plans(
    best: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    for name in (*FULL.modules, *RTX.modules):
        monkeypatch.setitem(sys.modules, name, None)
    missing = (
        "needs tensorrt; install it with: pip install 'mfnet[gpu]'; or TensorRT for RTX, which "
        "builds without a GPU: pip install 'mfnet[rtx]'"
    )
    # A required plan is refused before any work is done.
    assert_refused(capsys, run("--ckpt", best, "--fp16", "--plan"), 3, missing)
    assert os.listdir(best.parent) == ["best.pt"]
    assert run("--ckpt", best, "--fp16", "--windows", 1) == 0
    onnx = best.with_name("best.fp16.onnx")
    assert capsys.readouterr().out.splitlines()[-1] == (
        f"next: mfnet-export --onnx {onnx} --plan  on the machine with the GPU "
        f"(not here: {missing})"
    )
    assert sorted(os.listdir(best.parent)) == ["best.fp16.onnx", "best.onnx", "best.pt"]
    assert_refused(capsys, run("--onnx", onnx, "--plan"), 3, missing)


@pytest.mark.usefixtures("rtx")
def test_fp32_checkpoints_have_plans_too(
    best: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    use_export(monkeypatch, lambda path: write_attention(path, "fp32"))
    assert run("--ckpt", best, "--plan", "--windows", 1, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["plans"][0]["output"] == str(best.with_name("best.plan"))
    assert report["plans"][0]["contract"]["precision"] == "fp32"


@pytest.mark.usefixtures("rtx")
def test_a_failed_build_keeps_the_onnx_file(
    best: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    def write_bytes(path: Path, content: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    use_export(monkeypatch, lambda path: write_attention(path, "fp32"))
    monkeypatch.setattr(Path, "write_bytes", write_bytes)
    code = run("--ckpt", best, "--plan", "--windows", 1)
    assert_refused(capsys, code, 5, "(best.onnx is written)")
    assert sorted(os.listdir(best.parent)) == ["best.onnx", "best.pt"]


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ("--plan", "give either a checkpoint, FILE or --ckpt, or an ONNX file"),
        ("--ckpt a.pt --onnx a.onnx --plan", "give either a checkpoint"),
        (
            "--onnx a.onnx",
            "--onnx either builds a plan, --plan, or writes files for other programs",
        ),
        ("--onnx a.onnx --plan --scenes s", "--scenes goes with --ckpt, not with --onnx"),
        ("--onnx a.onnx --plan --align", "--onnx reads no scenes"),
        ("--onnx a.onnx --plan --fp16", "--fp16 goes with --ckpt"),
        ("--onnx a.onnx --plan --windows 5", "--windows goes with --ckpt"),
        ("--ckpt a.pt --batches 1,2,4", "--batches goes with --plan; add it or leave it out"),
        ("--ckpt a.pt --refittable", "--refittable goes with --plan"),
        ("--ckpt a.pt --plan --batches 4,2,1", "--batches 4,2,1: expected three ascending"),
        ("--onnx a.onnx --plan --opt-level 9", "'--opt-level': 9 is not in the range"),
        ("--onnx a.onnx --plan --workspace 0", "'--workspace': 0.0 is not in the range"),
        ("--onnx a.onnx --plan", "a.onnx: no such file; give an ONNX file with --onnx"),
    ],
)
def test_options_that_do_not_fit(words: str, part: str, capsys: Capture) -> None:
    assert_refused(capsys, run(*words.split()), 2, part)


def test_batches() -> None:
    assert profile_from_text("1,8,16") == Profile(1, 8, 16)
    for text in ("8", "1,2", "a,b,c", "2,1,4", "0,1,2", "1,4,2"):
        with pytest.raises(UsageError, match=f"--batches {text}: expected"):
            profile_from_text(text)
