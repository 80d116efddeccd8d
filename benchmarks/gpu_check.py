"""Check on a GPU what no other machine can show, part by part, and write down what was found.

    python benchmarks/gpu_check.py --work gpu/ --ckpt best.pt -o benchmarks/results/gpu
    python benchmarks/gpu_check.py --work gpu/ --minutes 15 --dry-run    # what fits in 15 minutes

Each part is a command with a time limit. They run one after the other in the order of their worth,
and results are written after each. Parts that have passed on this machine are not repeated unless
their input changed, so a check that was cut short goes on.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from itertools import product
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
RANDOM = "vit_b lora,vit_l lora,vit_b adapter,vit_l adapter"
FACTORS = {"vit_b": 2, "vit_l": 4, "vit_h": 6}  # of the limits below
PASSED, SKIPPED, FAILED, TIMED_OUT, NOT_RUN = "passed", "skipped", "failed", "timed out", "not run"
SHORT = 20  # minutes; a shorter check builds its plans fast, at optimisation level 1
MACHINE = """
from contextlib import nullcontext
from mfnet_export.tensorrt.config import known_targets
from mfnet_export.tensorrt.machine import plan_machine
from mfnet_runtime.backends.tensorrt.flavour import RTX, target_text
from mfnet_runtime.cuda.device import CudaDevice
with plan_machine() as m, nullcontext(m.device) if m.device else CudaDevice() as gpu:
    print(f"{gpu.name}, driver for CUDA {gpu.driver}, {m.flavour.title} {m.trt.__version__}")
    if m.flavour is RTX:
        card = target_text(gpu.compute_capability)
        print(card if card in known_targets(m.trt) else "portable")
"""
MAPS = "-o {work}/maps/{name} --restart"
EXPORT, RUN = "mfnet_export.cli", "mfnet_runtime.cli.main"
ONNX, FP16 = "{work}/{name}.onnx", "{work}/{name}.fp16.onnx"
PLAN, PLAN32 = "{work}/{name}.fp16.plan", "{work}/{name}.plan"
TOWN = "{work}/town/train/classes.json"
EPOCH = "--from-scratch --epochs 1 --steps 100 --device cuda"
TESTS = "-m gpu -rPs -q -W default -p no:cacheprovider tests"
MODELS = f"{TESTS}/gpu/test_models.py"
OTHERS = "--deselect tests/gpu/test_models.py::test_a_whole_scene"
BUILD = "--plan --batches 1,16,32 {how}"
FILES = f"--ckpt {{ckpt}} -o {ONNX} --fp16 {{limits}}"
TIMES = f"latency {PLAN} {FP16} --device cuda --batches 1,8,16,32 --baseline-batch 16 --baseline"
TIMES += " {ckpt} --plan-python {plan_python} -o {out}"
# Minutes for a small network, Python, module whose `main` is called and its words; files that it
# needs and makes. `command` and `_network` say what stands in braces.
PARTS = {
    "draw": (0.25, "torch", "mfnet_bench.random_checkpoint", "{random} {ckpt}", "", "{ckpt}"),
    "export": (2, "torch", EXPORT, FILES, "{ckpt}", f"{ONNX} {FP16}"),
    "FP16 plan": (2.5, "plan", EXPORT, f"--onnx {FP16} {BUILD}", FP16, PLAN),
    "FP32 plan": (2.5, "plan", EXPORT, f"--onnx {ONNX} {BUILD}", ONNX, PLAN32),
    "mfnet-run": (1.5, "plan", "pytest", f"{MODELS} -k whole_scene", f"{PLAN} {ONNX}", ""),
    "FP16 tests": (1.5, "plan", "pytest", f"{MODELS} {OTHERS}", f"{PLAN} {ONNX}", ""),
    "FP32 tests": (1.5, "plan", "pytest", MODELS, f"{PLAN32} {ONNX}", ""),
    "ONNX Runtime": (2, "torch", "pytest", MODELS, f"{FP16} {ONNX}", ""),
    "latency": (2, "torch", "mfnet_bench.cli", TIMES, f"{PLAN} {FP16}", ""),
    "scenes": (1, "plan", RUN, f"{PLAN} {{scenes}} {MAPS}", f"{PLAN} {{drawn}}", ""),
    "kernels": (1, "plan", "pytest", f"{TESTS}/gpu/test_kernels.py", "", ""),
    "backends": (2, "plan", "pytest", f"{TESTS}/runtime/backends/test_backends.py", "", ""),
    "town": (2, "plan", "mfnet.synthetic.__main__", "{work}/town --train 1 --size 2048", "", TOWN),
    "train": (4, "torch", "mfnet.cli", f"{{work}}/town/train -o {{run}} {EPOCH}", TOWN, ""),
}
ANYWHERE = ("draw", "export", "town")  # what they make serves on any machine
WHOLE = ("draw", "export", "FP16 plan", "mfnet-run", "FP16 tests")
Names = dict[str, Any]  # what stands for a word in braces; a list stands for several


@dataclass(frozen=True)
class Part:
    """A command, the files it needs and makes, and how long it may run."""

    name: str
    minutes: float
    command: tuple[str, ...]
    needs: tuple[Path, ...] = ()
    makes: tuple[Path, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    gpu: bool = True  # False: what it makes serves on any machine
    more: float = 0  # minutes of the parts without which it is of no use

    def obstacle(self, left: float, there: Callable[[Path], bool]) -> str:
        """Return why it cannot run with so many minutes left; empty if it can."""
        if missing := [path.name for path in self.needs if not there(path)]:
            return f"{missing[0]} is missing"
        needed = self.minutes + self.more
        return "" if needed <= left else f"needs up to {needed:g} min, {max(left, 0):.1f} are left"


def parts_of(names: Names) -> Iterator[Part]:
    """Yield the parts in the order of their worth."""
    trained = [_network(names, path) for path in names["checkpoints"]]
    texts = [text.strip() for text in names["random"].split(",") if text.strip()]
    drawn = [_network(names, None, text) for text in texts]
    main = trained + drawn[:1]
    yield from _parts(trained, "export", "FP16 plan", "mfnet-run")
    yield from _parts([names], "kernels")
    yield from _parts(trained, "FP16 tests", "FP32 plan", "FP32 tests")
    yield from _parts(drawn[:1], *WHOLE)
    yield from _parts(main, "latency")
    yield from _parts([names], "town")
    yield from _parts(main, "scenes")
    yield from _parts(drawn[1:2], *WHOLE, "latency")
    yield from _parts([names], "train", "backends")
    yield from _parts(drawn[2:], *WHOLE, "latency")
    yield from _parts(drawn, "FP32 plan", "FP32 tests")
    yield from _parts(trained + drawn, "ONNX Runtime")


def _network(names: Names, checkpoint: Path | None, random: str = "") -> Names:
    """Add what a trained network, or one of random weights, is called."""
    name = checkpoint.stem if checkpoint else f"random_{random.replace(' ', '_')}"
    limits = names["given"]
    if random:  # its pixels are undecided: any rounding changes their classes
        limits = ["--max-disagree", "100", "--max-drop", "100"]
    ckpt = checkpoint or names["work"] / f"{name}.pt"
    made = {"name": name, "ckpt": ckpt, "random": random.split(), "limits": limits}
    return {**names, **made, "factor": FACTORS.get(random.partition(" ")[0], 1)}


def _parts(networks: Sequence[Names], *kinds: str) -> Iterator[Part]:
    for names, (index, kind) in product(networks, enumerate(kinds)):
        minutes, python, module, text, *files = PARTS[kind]
        if kind.startswith("FP32") and "sm75" in names["how"]:
            continue  # TensorRT for RTX builds none for Turing
        needs, makes = ([Path(word) for word in _expand(given, names)] for given in files)
        env = [("CUDA_VISIBLE_DEVICES", "")] if kind in ANYWHERE else []
        if module == "pytest":
            env += [("MFNET_GPU_MODEL", str(model)) for model in needs[:1]]
            env += [("MFNET_GPU_SCENES", str(path)) for path in names["given"][1:]]
        code = f"import sys; from {module} import main; sys.exit(main(sys.argv[1:]))"
        command = (names[f"{python}_python"], "-c", code, *_expand(text, names))
        name, factor = f"{names.get('name', '')}: {kind}".lstrip(": "), names.get("factor", 1)
        known = (command, tuple(needs), tuple(makes), tuple(env), kind not in ANYWHERE)
        yield Part(name, factor * minutes, *known, more=factor * _more(*kinds[index:]))


def _more(kind: str, *rest: str) -> float:
    """Return the minutes of the parts from one that makes files to the first that checks them."""
    return PARTS[rest[0]][0] + _more(*rest) if rest and PARTS[kind][-1] else 0


def _expand(text: str, names: Names) -> Iterator[str]:
    for word in text.split():
        found = names.get(word.strip("{}"))
        yield from map(str, found) if isinstance(found, list) else [word.format(**names)]


def run_parts(parts: Sequence[Part], machine: str, out: Path, minutes: float) -> dict[str, Any]:
    """Run the parts that have not passed on a machine; write `gpu.json` and `gpu.md` after each."""
    end = time.monotonic() + 60 * minutes
    known = json.loads((out / "gpu.json").read_text()) if (out / "gpu.json").is_file() else {}
    results: dict[str, Any] = known["parts"] if known.get("machine") == machine else {}
    for part in parts:
        for folder in (out, *(path.parent for path in part.makes)):
            folder.mkdir(parents=True, exist_ok=True)
        inputs = {str(path): path.stat().st_mtime_ns for path in part.needs if path.is_file()}
        result = results.get(part.name, {})
        made = [path.stat().st_mtime_ns for path in part.makes if path.is_file()]
        complete = len(made) == len(part.makes)
        if complete and result.get("status") == PASSED and result["inputs"] == inputs:
            continue
        why = part.obstacle((end - time.monotonic()) / 60, Path.is_file)
        if complete and not part.gpu and min(made) >= max(inputs.values(), default=0):
            result = {"status": PASSED, "seconds": 0.0, "found": "made before"}
        elif why:
            result = {"status": NOT_RUN, "seconds": 0.0, "found": why}
        else:
            result = _run(part, out / f"{part.name.replace(': ', '.')}.log")
        click.echo(f"{part.name}: {result['status']}: {result['found']}", err=True)
        results[part.name] = {**result, "inputs": inputs}
        facts = {"machine": machine, "date": f"{datetime.now(timezone.utc):%Y-%m-%d}"}
        replace_text(out / "gpu.json", json.dumps({**facts, "parts": results}, indent=1) + "\n")
        replace_text(out / "gpu.md", f"{table_of(results)}\n\n{machine}, {facts['date']}.\n")
    return results


def _run(part: Part, log: Path) -> dict[str, Any]:
    """Run one part; its output goes into the log, and lines `found: ...` into the result."""
    started = time.monotonic()
    with log.open("w", encoding="utf-8") as output:
        how: dict[str, Any] = {"cwd": ROOT, "env": os.environ | dict(part.env)}
        how |= {"stdout": output, "stderr": subprocess.STDOUT, "start_new_session": True}
        child = subprocess.Popen(part.command, **how)
        try:
            status = FAILED if child.wait(part.minutes * 60) else PASSED
        except BaseException as fault:
            os.killpg(child.pid, 9)  # it may have children of its own
            child.wait()
            if not isinstance(fault, subprocess.TimeoutExpired):
                raise
            status = TIMED_OUT
    text = log.read_text(encoding="utf-8", errors="replace")
    lines = [line.strip("= ") for line in text.splitlines() if line.strip("= ")]
    found = [line.removeprefix("found: ") for line in lines if line.startswith("found: ")]
    last = next((line for line in reversed(lines) if not line.startswith("next: ")), "no output")
    if "from pytest " in part.command[2] and status == PASSED and " passed" not in last:
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


def list_parts(parts: Sequence[Part], minutes: float) -> None:
    """Print each part, and whether it fits if all take as long as they may."""
    made: set[Path] = set()
    for part in parts:
        why = part.obstacle(minutes, lambda path: path in made or path.is_file())
        if not why:
            minutes -= part.minutes
            made.update(part.makes)
        words = [*map("=".join, part.env), shlex.join(part.command)]
        say(f"{part.name}, {why or f'at most {part.minutes:g} min'}: {' '.join(words)}")


def _machine(python: str) -> list[str]:
    """Return what `MACHINE` prints: a description and, for TensorRT for RTX, the target."""
    done = subprocess.run([python, "-c", MACHINE], capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        raise UsageError(f"{python}: {(done.stderr.strip().splitlines() or ['no reason'])[-1]}")
    return [*done.stdout.splitlines(), ""]


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
@click.option("--dry-run", is_flag=True, help="List the parts and what fits; run none.")
@debug_option
def command(
    into: Path | None, minutes: float, chosen: tuple[str, ...], dry_run: bool, **names: Any
) -> int:
    """Export, build plans, test and time them on this machine's GPU."""
    work, scenes = names["work"], names["scenes"]
    out = names["out"] = names["out"] or work / "results"
    machine, target = ("", "") if dry_run else _machine(names["plan_python"])[:2]
    how = ["--target", target] if target else ["--timing-cache", work / "timings.cache"]
    how += ["--own-kernels"] if names["own_kernels"] and not target else []
    level = 1 if minutes < SHORT and names["opt_level"] is None else names["opt_level"]
    how += [] if level is None else ["--opt-level", level]
    given, drawn = (["--scenes", scenes], []) if scenes else ([], [TOWN.format(work=work)])
    names |= {"how": how, "given": given, "drawn": drawn, "scenes": scenes or work / "town/test"}
    names["run"] = work / f"run_{datetime.now():%m%d_%H%M%S}"  # a run is not overwritten
    parts = list(parts_of(names))
    parts = [part for part in parts if not chosen or any(text in part.name for text in chosen)]
    if dry_run:
        list_parts(parts, minutes)
        return 0
    results = run_parts(parts, machine, out, minutes)
    say(table_of(results))
    if into is not None and (out / CSV).is_file():
        update_document(into, summary_from_folder(out), "gpu")
    done = all(results[part.name]["status"] in (PASSED, SKIPPED) for part in parts)
    return 0 if done else SceneError.exit_code


if __name__ == "__main__":
    sys.exit(run_command(command))
