"""Every command explains itself, quickly, and stands in the README."""

from __future__ import annotations

import re
from importlib import import_module
from importlib.metadata import distribution
from pathlib import Path

import click
import pytest
from support import run_python

ROOT = Path(__file__).parents[1]
SCRIPTS = {entry.name: entry.value for entry in distribution("mfnet").entry_points}


def commands() -> list[tuple[str, click.Command]]:
    """Words to type and the command, sub-commands too."""
    found: list[tuple[str, click.Command]] = []
    for name, target in SCRIPTS.items():
        command: click.Command = import_module(target.partition(":")[0]).command
        found.append((name, command))
        if isinstance(command, click.Group):
            found += [(f"{name} {sub}", child) for sub, child in command.commands.items()]
    return found


COMMANDS = [pytest.param(name, command, id=name) for name, command in commands()]


@pytest.mark.parametrize(("name", "command"), COMMANDS)
def test_help_has_an_example_and_explains_every_option(name: str, command: click.Command) -> None:
    with click.Context(command, info_name=name) as context:
        text = command.get_help(context)
    if not isinstance(command, click.Group):
        assert re.search(rf"Examples?:\n\s+{name} ", text), text
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help or parameter.show_default, parameter.name


@pytest.mark.parametrize(("name", "command"), COMMANDS)
def test_is_in_the_readme(name: str, command: click.Command) -> None:
    documents = (ROOT / "README.md", ROOT / "benchmarks" / "README.md")
    assert any(name in document.read_text() for document in documents)


@pytest.mark.parametrize("name", SCRIPTS)
def test_help_imports_nothing_heavy(name: str) -> None:
    module = SCRIPTS[name].partition(":")[0]
    done = run_python(
        f"from {module} import main; main(['-h']); "
        "heavy = {'torch', 'onnx', 'onnxruntime', 'rasterio', 'matplotlib'} & set(sys.modules); "
        "sys.exit(f'imports {heavy}' if heavy else 0)"
    )
    assert done.returncode == 0, done.stderr
    assert "Usage:" in done.stdout
