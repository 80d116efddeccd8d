"""`benchmarks/gpu_check.py`: its commands, and how it runs parts; `tests/gpu` has the checks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import click
import pytest
from fakes.fake_tensorrt import RTX
from rgbd_plans import rig

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


def planned(gpu_check: Any, target: str, *words: object) -> list[Any]:
    """Return the parts of a command line, on a machine with TensorRT, or for RTX with a target."""
    found: list[Any] = []

    def run_parts(parts: list[Any], *_: object) -> dict[str, Any]:
        found.extend(parts)
        return {part.name: {"status": "passed", "found": "", "seconds": 0} for part in parts}

    pythons = ("--torch-python", "torch", "--plan-python", "trt")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpu_check, "_machine", lambda _: ["a GPU", target])
        patch.setattr(gpu_check, "run_parts", run_parts)
        assert gpu_check.command.main([*map(str, words), *pythons], standalone_mode=False) == 0
    return found


@pytest.mark.parametrize("target", ["", "sm89"])
def test_every_part_is_a_valid_command_line(gpu_check: Any, tmp_path: Path, target: str) -> None:
    best = tmp_path / "my networks" / "best.pt"
    files = ("--work", tmp_path, "--ckpt", best, "--scenes", tmp_path, "--own-kernels")
    there = {best}
    for part in planned(gpu_check, target, *files, "--random", "vit_b lora, vit_l lora"):
        assert set(part.needs) <= there
        there |= set(part.makes)
        python, _, code, *words = part.command
        on_torch = ("export", "draw", "latency", "ONNX Runtime", "train")
        assert python == ("torch" if part.name.endswith(on_torch) else "trt")
        name = code.partition("from ")[2].partition(" ")[0]
        if name == "pytest":
            assert all((ROOT / word).is_file() for word in words if word.endswith(".py"))
            continue
        module = import_module(name)
        command: click.Command = getattr(module, "command", module.main)
        if isinstance(command, click.Group):
            command = command.commands[words.pop(0)]
        options = command.make_context(part.name, words).params
        if part.name.endswith(" plan"):
            assert options["target"] == ((target,) if target else ())
            assert bool(options["timing_cache"]) == options["own_kernels"] == (not target)
            assert options["opt_level"] is None
    assert len(there) == 1 + 4 + 2 * 5 + 1  # files of a trained and two random networks; the town


def test_order_of_worth(gpu_check: Any, tmp_path: Path) -> None:
    words = (
        "--work",
        tmp_path,
        "--ckpt",
        tmp_path / "best.pt",
        "--random",
        "vit_b lora,vit_l none",
    )
    names = [part.name for part in planned(gpu_check, "", *words)]
    best = ["export", "FP16 plan", "mfnet-run", "FP16 tests", "FP32 plan", "FP32 tests", "latency"]
    assert [name for name in names if name.startswith("best")][:7] == [f"best: {b}" for b in best]
    order = [
        "best: mfnet-run",
        "kernels",
        "best: FP16 tests",
        "best: FP32 tests",
        "random_vit_b_lora: FP16 tests",
        "best: latency",
        "best: scenes",
        "random_vit_l_none: latency",
        "train",
        "random_vit_b_lora: FP32 plan",
        "best: ONNX Runtime",
    ]
    assert sorted(order, key=names.index) == order
    turing = {part.name for part in planned(gpu_check, "sm75", *words)}
    assert {name.partition(": ")[2] for name in {*names} - turing} == {"FP32 plan", "FP32 tests"}


@pytest.mark.parametrize(
    ("words", "level"), [("15", "1"), ("15 --opt-level 3", "3"), ("60 --opt-level 0", "0")]
)
def test_a_short_check_builds_fast(gpu_check: Any, tmp_path: Path, words: str, level: str) -> None:
    more = ("--ckpt", "best.pt", "--random", "", "--part", "FP16 plan", "--minutes", *words.split())
    (part,) = planned(gpu_check, "", "--work", tmp_path, *more)
    assert part.command[-2:] == ("--opt-level", level)


@pytest.mark.parametrize(
    ("version", "capability", "target"),
    [("10.13", (9, 0), []), (RTX, (8, 9), ["sm89"]), (RTX, (13, 0), ["portable"])],
)
def test_flavour_and_target_of_a_machine(
    gpu_check: Any,
    version: str,
    capability: tuple[int, int],
    target: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if version == RTX:
        monkeypatch.setitem(sys.modules, "tensorrt", None)
    with rig(version, compute_capability=capability) as machine:
        exec(gpu_check.MACHINE, {})
        title = "TensorRT for RTX" if target else "TensorRT"
        text = f"NVIDIA Fake, driver for CUDA 12.2, {title} {machine.trt.version}"
        machine.check()
    assert capsys.readouterr().out.splitlines() == [text, *target]


def python(gpu_check: Any, name: str, code: str, minutes: float = 0.5, **more: Any) -> Any:
    return gpu_check.Part(name, minutes, (sys.executable, "-c", code), **more)


def test_parts_pass_fail_and_time_out_independently(gpu_check: Any, tmp_path: Path) -> None:
    made = tmp_path / "made"
    parts = [
        python(gpu_check, "a", f"print('found: 7\\nbye'); open({str(made)!r}, 'w')", makes=(made,)),
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


def test_parts_that_do_not_fit_are_skipped_for_smaller_ones(
    gpu_check: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A part that only makes files needs time for those that use them as well."""
    made = tmp_path / "made"
    parts = [
        python(gpu_check, "big", "", 9),
        python(gpu_check, "draw", "", 2, makes=(made,), more=4),
        python(gpu_check, "use", "", 4, needs=(made,)),
        python(gpu_check, "small", "", 1),
        python(gpu_check, "late", "", 5),
    ]
    results = gpu_check.run_parts(parts, "GPU", tmp_path / "out", 5.5)
    assert {name: result["found"] for name, result in results.items()} == {
        "big": "needs up to 9 min, 5.5 are left",
        "draw": "needs up to 6 min, 5.5 are left",
        "use": "made is missing",
        "small": "no output",
        "late": "no output",  # for the small one took no minute
    }
    gpu_check.list_parts(parts, 7)
    planned = [line.split(":")[0] for line in capsys.readouterr().out.splitlines()]
    assert planned == [
        "big, needs up to 9 min, 7.0 are left",
        "draw, at most 2 min",
        "use, at most 4 min",
        "small, at most 1 min",
        "late, needs up to 5 min, 0.0 are left",
    ]


def test_files_made_without_a_gpu_are_taken_along(gpu_check: Any, tmp_path: Path) -> None:
    given, made = tmp_path / "best.pt", tmp_path / "best.onnx"
    part = python(gpu_check, "a", "print('made')", needs=(given,), makes=(made,), gpu=False)

    def run(machine: str) -> str:
        return str(gpu_check.run_parts([part], machine, tmp_path / "out", 1)["a"]["found"])

    given.write_text("1")
    made.write_text("1")
    assert run("a GPU") == "made before"
    os.utime(made, (1, 1))
    assert run("another GPU") == "made"


def test_tests_that_are_all_skipped_did_not_pass(gpu_check: Any, tmp_path: Path) -> None:
    (tmp_path / "test_x.py").write_text("import pytest\ndef test_x(): pytest.skip('no x')\n")
    words = ("-rs", "-q", "-p", "no:cacheprovider", str(tmp_path / "test_x.py"))
    code = "import sys; from pytest import main; sys.exit(main(sys.argv[1:]))"
    part = gpu_check.Part("x: tests", 0.5, (sys.executable, "-c", code, *words))
    result = gpu_check.run_parts([part], "GPU", tmp_path, 1)["x: tests"]
    assert result["status"] == "skipped"
    assert result["found"].endswith("no x")


def test_a_machine_without_a_gpu_is_refused_but_lists_the_parts(tmp_path: Path) -> None:
    def check(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "benchmarks/gpu_check.py", "--work", str(tmp_path), *words]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

    found = check()
    assert found.returncode == 2
    assert "pycuda" in found.stderr
    assert not list(tmp_path.iterdir())
    found = check("--dry-run", "--part", "kernels")
    assert found.returncode == 0
    assert found.stdout.startswith("kernels, at most 1 min: ")
