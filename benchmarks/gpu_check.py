"""Check on a GPU what no other machine can show, part by part, and write down what was found.

    python benchmarks/gpu_check.py --work gpu/ --ckpt best.pt -o benchmarks/results/gpu
    python benchmarks/gpu_check.py --work gpu/ --dry-run      # list the parts and what is missing

Each part is a command with a time limit: an export, a plan, tests of `tests/gpu`, a run of
`mfnet-bench latency`. Results are written after each part. Parts that have passed on this machine
are not repeated unless their input changed, so a check that was cut short goes on.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import click

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = [str(ROOT / folder) for folder in ("", "export", "runtime", "benchmarks")]
sys.path[:0] = FOLDERS  # mfnet need not be installed, here or in the Pythons that run the parts
os.environ["PYTHONPATH"] = os.pathsep.join([*FOLDERS, os.environ.get("PYTHONPATH", "")])

from mfnet_bench.latency.report import CSV, summary_from_folder  # noqa: E402
from mfnet_bench.table import markdown_table, update_document  # noqa: E402
from mfnet_runtime.console import debug_option, run_command, say  # noqa: E402
from mfnet_runtime.errors import SceneError, UsageError  # noqa: E402
from mfnet_runtime.files import replace_text  # noqa: E402

PATH = click.Path(path_type=Path, resolve_path=True)
MARK = "gpu"  # of the table's place in a document
RANDOM = "vit_b lora,vit_b adapter,vit_l lora,vit_l adapter"
PASSED, SKIPPED, FAILED, TIMED_OUT, NOT_RUN = "passed", "skipped", "failed", "timed out", "not run"
LEAST_MINUTES = 0.2  # a part is not started with less time left
MAIN = "import sys; from {} import main; sys.exit(main(sys.argv[1:]))"
MACHINE = """
from mfnet_export.tensorrt.machine import plan_machine
from mfnet_runtime.cuda.device import CudaDevice
with plan_machine() as m:
    gpu = m.device or CudaDevice()
    print(f"{gpu.name}, driver for CUDA {gpu.driver}, {m.flavour.title} {m.trt.__version__}")
"""
MISSING = """
import sys; from importlib.util import find_spec
print(" ".join(name for name in sys.argv[1:] if not find_spec(name)))
"""
EXPORTING = ("torch", "segment_anything", "onnx", "onnxscript", "onnxruntime", "rasterio", "click")
TESTING = ("tensorrt", "pycuda", "pytest", "hypothesis", "onnx", "onnxruntime", "rasterio", "click")


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to check, and with which interpreters."""

    work: Path
    out: Path
    checkpoints: tuple[Path, ...]
    random: str
    scenes: Path | None
    opt_level: int | None
    own_kernels: bool
    torch_python: str
    plan_python: str


@dataclass(frozen=True)
class Part:
    """A command, the files it needs and makes, and how long it may run."""

    name: str
    minutes: float
    command: tuple[str, ...]
    needs: tuple[Path, ...] = ()
    makes: Path | None = None
    env: tuple[tuple[str, str], ...] = ()


def parts_of(request: Request) -> Iterator[Part]:
    """Yield the parts in the order of their worth, trained networks first."""
    yield _tests(request, "kernels", request.plan_python, "tests/gpu/test_kernels.py")
    for checkpoint in request.checkpoints:
        yield from _network_parts(request, checkpoint, trained=True)
    backends = "tests/runtime/backends/test_backends.py"
    yield _tests(request, "backends", request.plan_python, backends)
    for words in filter(None, map(str.strip, request.random.split(","))):
        checkpoint = request.work / f"random_{words.replace(' ', '_')}.pt"
        command = (request.torch_python, "-m", "mfnet_bench.random_checkpoint", *words.split())
        yield Part(f"{checkpoint.stem}: draw", 2, (*command, str(checkpoint)), (), checkpoint)
        yield from _network_parts(request, checkpoint, trained=False)


def _network_parts(request: Request, checkpoint: Path, trained: bool) -> Iterator[Part]:
    name, torch_python, plan_python = checkpoint.stem, request.torch_python, request.plan_python
    onnx, fp16 = (request.work / f"{name}{suffix}" for suffix in (".onnx", ".fp16.onnx"))
    export = ["--ckpt", str(checkpoint), "-o", str(onnx), "--fp16"]
    if not trained:  # its pixels are undecided: any rounding changes their classes
        export += ["--max-disagree", "100", "--max-drop", "100"]
    elif request.scenes:
        export += ["--scenes", str(request.scenes)]
    command = (torch_python, "-c", MAIN.format("mfnet_export.cli"), *export)
    no_gpu = (("CUDA_VISIBLE_DEVICES", ""),)  # or the export would build the plan as well
    yield Part(f"{name}: export", 6, command, (checkpoint,), fp16, no_gpu)
    build = ["--plan", "--batches", "1,16,32"]
    build += ["--timing-cache", str(request.work / "timings.cache")]
    build += [] if request.opt_level is None else ["--opt-level", str(request.opt_level)]
    build += ["--own-kernels"] if request.own_kernels else []
    for source in (fp16, onnx):
        plan = source.with_suffix(".plan")
        command = (plan_python, "-c", MAIN.format("mfnet_export.cli"), "--onnx", str(source))
        yield Part(f"{plan.name}: build", 5, (*command, *build), (source,), plan)
        yield _tests(request, plan.name, plan_python, "tests/gpu/test_models.py", plan, onnx)
    yield _tests(request, fp16.name, torch_python, "tests/gpu/test_models.py", fp16, onnx)
    plan = fp16.with_suffix(".plan")
    options = ["--device", "cuda", "--batches", "1,8,16,32", "--baseline-batch", "16"]
    options += ["--baseline", str(checkpoint), "--plan-python", plan_python]
    command = (torch_python, "-c", MAIN.format("mfnet_bench.cli"), "latency", str(plan), str(fp16))
    yield Part(f"{name}: latency", 6, (*command, *options, "-o", str(request.out)), (plan, fp16))


def _tests(request: Request, name: str, python: str, file: str, *needs: Path) -> Part:
    pytest = ("-m", "pytest", "-m", "gpu", "-rPs", "-q", "-W", "default", "-p", "no:cacheprovider")
    env = [("MFNET_GPU_MODEL", str(needs[0]))] if needs else []
    env += [("MFNET_GPU_SCENES", str(request.scenes))] if request.scenes else []
    command = (python, *pytest, str(ROOT / file))
    return Part(f"{name}: tests", 3, command, needs, env=tuple(env))


def run_parts(parts: Sequence[Part], machine: str, out: Path, minutes: float) -> dict[str, Any]:
    """Run the parts that have not passed; write `gpu.json` and `gpu.md` after each.

    Args:
        parts: In order.
        machine: GPU, driver and TensorRT; results of another machine are dropped.
        out: Folder of the results, and of a log for each part.
        minutes: Time for all parts together.

    Returns:
        The results by the part's name.
    """
    end = time.monotonic() + 60 * minutes
    out.mkdir(parents=True, exist_ok=True)
    known = json.loads((out / "gpu.json").read_text()) if (out / "gpu.json").is_file() else {}
    results: dict[str, Any] = known["parts"] if known.get("machine") == machine else {}
    for part in parts:
        inputs = {str(path): path.stat().st_mtime_ns for path in part.needs if path.is_file()}
        result = results.get(part.name, {})
        there = part.makes is None or part.makes.is_file()
        if result.get("status") == PASSED and result["inputs"] == inputs and there:
            continue
        left = (end - time.monotonic()) / 60
        missing = [path.name for path in part.needs if not path.is_file()]
        if missing or left < LEAST_MINUTES:
            why = f"{missing[0]} is missing" if missing else "no time left"
            result = {"status": NOT_RUN, "seconds": 0.0, "found": why}
        else:
            log = out / f"{part.name.replace(': ', '.')}.log"
            result = _run(part, log, min(part.minutes, left))
        click.echo(f"{part.name}: {result['status']}: {result['found']}", err=True)
        results[part.name] = {**result, "inputs": inputs}
        facts = {"machine": machine, "date": f"{datetime.now(timezone.utc):%Y-%m-%d}"}
        replace_text(out / "gpu.json", json.dumps({**facts, "parts": results}, indent=1) + "\n")
        replace_text(out / "gpu.md", f"{table_of(results)}\n\n{machine}, {facts['date']}.\n")
    return results


def _run(part: Part, log: Path, minutes: float) -> dict[str, Any]:
    """Run one part; its output goes into the log, and lines `found: ...` into the result."""
    started = time.monotonic()
    with log.open("w", encoding="utf-8") as output:
        child = subprocess.Popen(
            part.command,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            env={**os.environ, **dict(part.env)},
            start_new_session=True,
        )
        try:
            status = FAILED if child.wait(minutes * 60) else PASSED
        except BaseException as fault:
            os.killpg(child.pid, 9)  # it may have children of its own
            child.wait()
            if not isinstance(fault, subprocess.TimeoutExpired):
                raise
            status = TIMED_OUT
    text = log.read_text(encoding="utf-8", errors="replace")
    lines = [line.strip("= ") for line in text.splitlines() if line.strip("= ")]
    found = [line.removeprefix("found: ") for line in lines if line.startswith("found: ")]
    last = lines[-1] if lines else "no output"
    if "pytest" in part.command and status == PASSED and " passed" not in last:
        status = SKIPPED  # every test
        last = next((line for line in lines if line.startswith("SKIPPED")), last)
    seconds = round(time.monotonic() - started, 1)
    return {"status": status, "seconds": seconds, "found": "; ".join([*found, last])[:300]}


def table_of(results: dict[str, Any]) -> str:
    """Return the results as a Markdown table."""
    rows = [
        [name, result["found"].replace("|", "/"), result["status"], f"{result['seconds']:.0f}"]
        for name, result in results.items()
    ]
    return markdown_table(["part", "found", "", "s"], rows)


def _output(python: str, code: str, *words: str) -> str:
    """Run code in a Python and return what it prints.

    Raises:
        UsageError: It failed.
    """
    done = subprocess.run([python, "-c", code, *words], capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        raise UsageError(f"{python}: {(done.stderr.strip().splitlines() or ['no reason'])[-1]}")
    return done.stdout.strip()


@click.command("gpu_check")
@click.option("--work", type=PATH, required=True, help="Folder for models and plans; kept.")
@click.option("-o", "--out", type=PATH, help="Folder for the results [default: WORK/results].")
@click.option("--into", type=PATH, help="Document whose GPU table to replace, such as README.md.")
@click.option("--ckpt", "checkpoints", multiple=True, type=PATH, help="Trained; repeatable.")
@click.option("--random", default=RANDOM, show_default=True, help="Networks of random weights.")
@click.option("--scenes", type=PATH, help="Folder of scenes, best with label/ [default: drawn].")
@click.option("--minutes", type=float, default=60, show_default=True, help="For all parts.")
@click.option("--part", "chosen", multiple=True, metavar="TEXT", help="Only parts so named.")
@click.option("--opt-level", type=int, help="Of TensorRT's builder, 0 to 5.")
@click.option("--own-kernels", is_flag=True, help="Build plans without cuBLAS and cuDNN.")
@click.option("--torch-python", default=sys.executable, help="A Python with PyTorch and onnx.")
@click.option("--plan-python", default=sys.executable, help="A Python with TensorRT and PyCUDA.")
@click.option("--dry-run", is_flag=True, help="List the parts and what is missing; run none.")
@debug_option
def command(
    into: Path | None, minutes: float, chosen: tuple[str, ...], dry_run: bool, **asked: Any
) -> int:
    """Export, build plans, test and time them on this machine's GPU."""
    asked["out"] = asked["out"] or asked["work"] / "results"
    request = Request(**asked)
    parts = [
        part for part in parts_of(request) if not chosen or any(c in part.name for c in chosen)
    ]
    if dry_run:
        for part in parts:
            words = [*map("=".join, part.env), shlex.join(part.command)]
            say(f"{part.name}, at most {part.minutes:g} min: {' '.join(words)}")
        for python, names in ((request.torch_python, EXPORTING), (request.plan_python, TESTING)):
            say(f"{python} lacks: {_output(python, MISSING, *names) or 'nothing'}")
        return 0
    request.work.mkdir(parents=True, exist_ok=True)
    results = run_parts(parts, _output(request.plan_python, MACHINE), request.out, minutes)
    say(table_of(results))
    if into is not None and (request.out / CSV).is_file():
        update_document(into, summary_from_folder(request.out), MARK)
    done = all(results[part.name]["status"] in (PASSED, SKIPPED) for part in parts)
    return 0 if done else SceneError.exit_code


if __name__ == "__main__":
    sys.exit(run_command(command))
