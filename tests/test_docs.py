"""Commands of README and tutorial run as printed; CONTRIBUTING's example trains and exports."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from importlib import import_module
from importlib.metadata import distribution
from pathlib import Path

import click
import pytest
from print_reference import reference
from support import write_rgbd_model, write_scene

import mfnet.tuning
from mfnet_runtime.contract import Contract

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
DOCS = [f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))]
COMMANDS = {entry.name: entry.value for entry in distribution("mfnet").entry_points}


def block(file: str, language: str, containing: str) -> str:
    """The first fenced block of a language that contains a text."""
    text = (ROOT / file).read_text()
    found = re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)
    return next(str(part) for part in found if containing in part)


def test_the_python_reference_is_that_of_the_docstrings() -> None:
    written = (ROOT / "docs" / "PYTHON.md").read_text()
    assert written == reference(), "run python tests/print_reference.py"


def test_tutorial_shell_runs(tmp_path: Path) -> None:
    """Word for word, but with less data and fewer steps, so that it takes seconds."""
    shell = block("docs/TUTORIAL.md", "shell", "mfnet.synthetic")
    lines = shell.replace("\\\n", " ").splitlines()
    assert [shlex.split(line)[0] for line in lines] == [
        "python",
        "mfnet-train",
        "mfnet-export",
        "mfnet-run",
        "mfnet-bench",
    ]
    lines[0] += " --train 1 --size 256"
    lines[1] += " --epochs 1 --steps 2 --batch 2 --threads 1"
    for line in lines:
        words = shlex.split(line)
        program = sys.executable if words[0] == "python" else str(BIN / words[0])
        done = subprocess.run([program, *words[1:]], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, f"{line}\n{done.stderr}"
    assert (tmp_path / "maps" / "test_1.tif").is_file()


def command_lines() -> list[str]:
    """Every line of the documents that calls one of our commands."""
    lines = []
    for file in ("README.md", *DOCS, "benchmarks/README.md", "Makefile"):
        text = (ROOT / file).read_text().replace("\\\n", " ")
        for line in text.splitlines():
            words = line.strip().removeprefix("$ ").removeprefix("$(BIN)/").partition("  #")[0]
            shell = "$" in words or {"FILE", "MODEL"} & set(words.split())
            if words.partition(" ")[0] in COMMANDS and not shell:
                lines.append(words)
    return lines


@pytest.mark.parametrize("line", command_lines())
def test_command_lines_are_understood(line: str) -> None:
    name, *words = shlex.split(line)
    command: click.Command = import_module(COMMANDS[name].partition(":")[0]).command
    if isinstance(command, click.Group):
        command = command.commands[words.pop(0)]
    command.make_context(name, words)


def test_readme_python_runs(tmp_path: Path) -> None:
    scene = write_scene(tmp_path, "ortho")
    scene.image.rename(tmp_path / "ortho.tif")
    scene.dsm.rename(tmp_path / "heights.tif")
    write_rgbd_model(tmp_path / "best.onnx")
    code = block("README.md", "python", "mfnet_runtime")
    arrays = "import numpy as np; dsm = np.random.rand(50, 40); image = np.ones((3, 50, 40))\n"
    words = [sys.executable, "-c", f"{arrays}{code}\nprint(classes.shape)"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "(50, 40)\n"
    assert (tmp_path / "maps" / "ortho.tif").is_file()


@pytest.mark.parametrize("file", ["README.md", "CONTRIBUTING.md", "benchmarks/README.md", *DOCS])
def test_links_lead_somewhere(file: str) -> None:
    for link in re.findall(r"\]\((?!\w+://)([^)\s]+)\)", (ROOT / file).read_text()):
        name, _, anchor = link.partition("#")
        target = (ROOT / file).parent / name if name else ROOT / file
        assert target.exists(), link
        if anchor:
            heads = re.findall(r"^#+ (.*)", target.read_text(), re.MULTILINE)
            slugs = [re.sub(r"[^\w -]", "", head).lower().replace(" ", "-") for head in heads]
            assert anchor in slugs, link


def test_the_contract_in_its_specification() -> None:
    text = (ROOT / "docs" / "CONTRACT.md").read_text()
    given = block("docs/CONTRACT.md", "json", "mfnet-contract")
    read = Contract.from_json(given).to_dict()
    assert read == json.loads(given)
    for name in read.keys() - {"format"}:
        assert re.search(rf"^\* `{name}[.`]", text, re.MULTILINE), name


def test_contributing_example_is_a_whole_tuning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from mfnet.cli import main as train
    from mfnet_export.cli import main as export

    example = block("CONTRIBUTING.md", "python", "Ia3Tuning")
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "ia3.py").write_text(example)
    monkeypatch.setattr(
        mfnet.tuning, "__path__", [*mfnet.tuning.__path__, str(tmp_path / "plugins")]
    )
    monkeypatch.delitem(sys.modules, "mfnet.tuning.ia3", raising=False)
    write_scene(tmp_path / "scenes", height=64, width=64, label=True)
    words = "--from-scratch --tuning ia3 --backbone tiny --window 64 --epochs 1 --steps 2 --batch 2"
    run = tmp_path / "run"
    assert train([str(tmp_path / "scenes"), "-o", str(run), *words.split()]) == 0
    assert "of them ia3" in capsys.readouterr().err
    assert export(["--ckpt", str(run / "best.pt")]) == 0
    assert (run / "best.onnx").is_file()
