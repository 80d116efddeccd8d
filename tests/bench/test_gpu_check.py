"""`benchmarks/gpu_check.py`: its commands, and how it runs parts; `tests/gpu` has the checks."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import click
import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def gpu_check() -> Any:
    spec = spec_from_file_location("gpu_check", ROOT / "benchmarks" / "gpu_check.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["gpu_check"] = module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [*sys.path])
        patch.setenv("PYTHONPATH", "")
        spec.loader.exec_module(module)
        yield module


def test_every_part_is_a_valid_command_line(gpu_check: Any, tmp_path: Path) -> None:
    request = gpu_check.Request(
        work=tmp_path, out=tmp_path, checkpoints=(tmp_path / "best.pt",), random="vit_b lora",
        scenes=tmp_path, opt_level=1, own_kernels=True, torch_python="torch", plan_python="trt",
    )  # fmt: skip
    parts = list(gpu_check.parts_of(request))
    names = [part.name for part in parts]
    assert names[:2] == ["kernels: tests", "best: export"]
    assert names.index("best: latency") < names.index("random_vit_b_lora: export")
    made = {part.makes for part in parts}
    for part in parts:
        assert set(part.needs) <= {*made, tmp_path / "best.pt", tmp_path / "best.onnx"} | {
            tmp_path / "random_vit_b_lora.onnx"  # goes with the FP16 file
        }
        python, flag, name, *words = part.command
        on_torch = ("export", "draw", "latency", "fp16.onnx: tests")
        assert python == ("torch" if part.name.endswith(on_torch) else "trt")
        if flag == "-m":
            assert name == "mfnet_bench.random_checkpoint" or Path(words[-1]).is_file()
            continue
        module = name.partition("from ")[2].partition(" ")[0]
        command: click.Command = import_module(module).command
        if isinstance(command, click.Group):
            command = command.commands[words.pop(0)]
        command.make_context(part.name, words)


def python(gpu_check: Any, name: str, code: str, minutes: float = 1, **more: Any) -> Any:
    return gpu_check.Part(name, minutes, (sys.executable, "-c", code), **more)


def test_parts_pass_fail_and_time_out_independently(gpu_check: Any, tmp_path: Path) -> None:
    made = tmp_path / "made"
    parts = [
        python(gpu_check, "a", f"print('found: 7\\nbye'); open({str(made)!r}, 'w')", makes=made),
        python(gpu_check, "b", "raise SystemExit('broken')", needs=(made,)),
        python(gpu_check, "c", "import time; print('...', flush=True); time.sleep(60)", 0.01),
        python(gpu_check, "d", "", needs=(tmp_path / "never",)),
    ]
    results = gpu_check.run_parts(parts, "GPU", tmp_path / "out", 1)
    assert {name: (result["status"], result["found"]) for name, result in results.items()} == {
        "a": ("passed", "7; bye"),
        "b": ("failed", "broken"),
        "c": ("timed out", "..."),
        "d": ("not run", "never is missing"),
    }
    assert json.loads((tmp_path / "out/gpu.json").read_text())["parts"] == results
    assert "| c    |" in (tmp_path / "out/gpu.md").read_text()


def test_an_interrupted_check_continues_where_it_stopped(gpu_check: Any, tmp_path: Path) -> None:
    given, ran = tmp_path / "given", tmp_path / "ran"
    given.write_text("1")
    ran.touch()
    parts = [
        python(gpu_check, name, f"print({name!r}, file=open({str(ran)!r}, 'a'))", needs=(given,))
        for name in "ab"
    ]

    def run(machine: str, minutes: float = 1) -> list[str]:
        ran.write_text("")
        gpu_check.run_parts(parts, machine, tmp_path / "out", minutes)
        return ran.read_text().split()

    assert run("GPU", minutes=0) == []
    assert run("GPU") == ["a", "b"]
    assert run("GPU") == []
    given.write_text("22")
    assert run("GPU") == ["a", "b"]
    assert run("another GPU") == ["a", "b"]


def test_tests_that_are_all_skipped_did_not_pass(gpu_check: Any, tmp_path: Path) -> None:
    (tmp_path / "test_x.py").write_text("import pytest\ndef test_x(): pytest.skip('no x')\n")
    words = ("-m", "pytest", "-rs", "-q", "-p", "no:cacheprovider", str(tmp_path / "test_x.py"))
    part = gpu_check.Part("x: tests", 1, (sys.executable, *words))
    result = gpu_check.run_parts([part], "GPU", tmp_path, 1)["x: tests"]
    assert result["status"] == "skipped"
    assert result["found"].endswith("no x")


def test_a_machine_without_a_gpu_is_refused_and_a_dry_run_lists_what_is_missing(
    tmp_path: Path,
) -> None:
    def check(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "benchmarks/gpu_check.py", "--work", str(tmp_path), *words]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

    found = check()
    assert found.returncode == 2
    assert "pycuda" in found.stderr
    assert not list(tmp_path.iterdir())
    found = check("--dry-run", "--part", "kernels")
    assert found.returncode == 0
    assert found.stdout.count(" at most ") == 1
    assert "lacks: tensorrt pycuda" in found.stdout
