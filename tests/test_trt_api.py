"""Whatever our code uses of TensorRT exists in 8.6, 10.13 and 11.4, or stands behind a gate.

Read from the source, so that lines no test runs are covered too; the fakes that other tests run
on refuse the same at run time. The recorded lists are compared with TensorRT's own bindings.
"""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from fakes.fake_tensorrt import LEAN, RECORDED, VERSIONS, fake_tensorrt

from mfnet_runtime.backends.tensorrt.engine import recording_logger

ROOT = Path(__file__).parents[1]
FILES = [
    path
    for folder in ("export/mfnet_export/tensorrt", "runtime/mfnet_runtime/backends/tensorrt")
    for path in sorted((ROOT / folder).glob("*.py"))
    if "import click" not in path.read_text()  # whose `context` is click's
]
# What a variable of this name holds in those files; `trt` is the module.
CLASSES = {
    "builder": "Builder",
    "cache": "ITimingCache",
    "config": "IBuilderConfig",
    "context": "IExecutionContext",
    "inspector": "EngineInspector",
    "layer": "ILayer",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "raw": "ICudaEngine",
    "runtime": "Runtime",
}
API = {version: json.loads((RECORDED / f"{version}.json").read_text()) for version in VERSIONS}
Use = tuple[int, str, str]  # line, class or "" for the module, member


def uses(code: str) -> Iterator[Use]:
    """Members of TensorRT that code names outside of functions with a gate."""
    tree = ast.parse(code)
    gates = {"hasattr"} | {
        function.name
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef) and _asks(function, {"hasattr"})
        if isinstance(function.body[-1], ast.Return) and len(function.body) <= 2
    }
    gated = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef) and _asks(function, gates)
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and id(node) not in gated:
            owner = _owner(node.value)
            if owner is not None and not node.attr.startswith("_"):
                yield node.lineno, owner, node.attr


def _asks(function: ast.FunctionDef, gates: set[str]) -> bool:
    calls = (node.func for node in ast.walk(function) if isinstance(node, ast.Call))
    return any(isinstance(called, ast.Name) and called.id in gates for called in calls)


def _owner(value: ast.expr) -> str | None:
    """The class of what stands before a dot: `trt`, `trt.DataType`, `config`, `self._context`."""
    if isinstance(value, ast.Name):
        return "" if value.id == "trt" else CLASSES.get(value.id)
    if not isinstance(value, ast.Attribute):
        return None
    if _owner(value.value) == "":
        return value.attr
    if isinstance(value.value, ast.Name) and value.value.id == "self":
        name = value.attr.lstrip("_")
        return "" if name == "trt" else CLASSES.get(name)
    return None


def lacking(use: Use) -> list[str]:
    """Versions without a member."""
    _, owner, member = use
    if not owner:
        return [version for version in VERSIONS if member not in API[version]["names"]]
    return [
        version
        for version in VERSIONS
        if owner in API[version]["classes"] and member not in API[version]["classes"][owner]
    ]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_use_is_in_every_version_or_gated(path: Path) -> None:
    faults = {use: absent for use in uses(path.read_text()) if (absent := lacking(use))}
    assert not faults


def test_the_search_finds_known_uses() -> None:
    found = {(owner, member) for path in FILES for _, owner, member in uses(path.read_text())}
    assert {
        ("", "Builder"),
        ("", "Runtime"),
        ("BuilderFlag", "TF32"),
        ("IBuilderConfig", "set_timing_cache"),
        ("OnnxParser", "parse_from_file"),
    } <= found


@pytest.mark.parametrize("version", [*VERSIONS, LEAN])
def test_fakes_have_no_more_than_the_version(version: str) -> None:
    trt = fake_tensorrt(version).module
    for name in ("IProgressMonitor", "Builder", "OnnxParser"):
        recorded = json.loads((RECORDED / f"{version}.json").read_text())["names"]
        assert hasattr(trt, name) == (name in recorded)
    assert hasattr(trt.BuilderFlag, "FP16") == (version in ("8.6", "10.13"))
    runtime = trt.Runtime(recording_logger(trt))
    with pytest.raises(AttributeError, match="has no build"):
        runtime.build()
    with pytest.raises(TypeError, match="fit none of"):
        runtime.deserialize_cuda_engine(plan=b"")
    with pytest.raises(AttributeError, match="logger cannot be set"):
        runtime.logger = None


@pytest.mark.parametrize(
    ("package", "version"), [("tensorrt_bindings", "11.4"), ("tensorrt_lean_bindings", LEAN)]
)
def test_recorded_lists_are_those_of_the_bindings(package: str, version: str) -> None:
    """In a process of its own: bindings without their libraries must not stay loaded."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        pytest.skip(f"{package} is not installed")
    if not all(map(shutil.which, ("gcc", "nm", "readelf"))):
        pytest.skip("no gcc and binutils, which empty libraries are made with")
    recorder = ROOT / "tests/fakes/record_trt_api.py"
    done = subprocess.run(
        [sys.executable, str(recorder), str(Path(spec.origin).parent)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    recorded = json.loads((RECORDED / f"{version}.json").read_text())
    if found["version"] != recorded["version"]:
        pytest.skip(f"{package} {found['version']} is not the version recorded")
    assert found == recorded
