"""The runtime must import, and run, on a machine without PyTorch, onnx or any engine's builder."""

from __future__ import annotations

import os
import pkgutil
import re
from importlib.util import find_spec
from pathlib import Path

import pytest
from support import run_python, write_rgbd_model, write_scene

import mfnet_runtime
from mfnet_runtime.errors import EXTRAS

ROOT = Path(__file__).parents[1]
SOURCES = ("mfnet", "export", "runtime", "benchmarks")
HEAVY = (
    "torch torchvision onnx openvino distributed tensorrt pycuda matplotlib mfnet mfnet_export"
).split()
# With any of these set, the engines send nothing.
QUIET = ("CI GITHUB_ACTIONS TF_BUILD JENKINS_URL ORT_DISABLE_TELEMETRY XDG_CACHE_HOME").split()
SERVE = "fastapi starlette pydantic uvicorn prometheus_client".split()
MODULES = [
    module.name
    for module in pkgutil.walk_packages(mfnet_runtime.__path__, "mfnet_runtime.")
    if not module.name.startswith("mfnet_runtime.serve.")
]
BLOCK = "; ".join(f"sys.modules[{name!r}] = None" for name in HEAVY + SERVE)


def test_every_module_imports_without_heavy_libraries() -> None:
    done = run_python(f"{BLOCK}; import {', '.join(MODULES)}")
    assert done.returncode == 0, done.stderr


def test_runs_without_heavy_libraries(tmp_path: Path) -> None:
    model = write_rgbd_model(tmp_path / "rgbd.onnx")
    write_scene(tmp_path / "scenes")
    words = f"{model} {tmp_path}/scenes -o {tmp_path}/out".split()
    call = f"from mfnet_runtime.cli.main import main; code = main({words})"
    done = run_python(f"{BLOCK}; {call}; sys.exit(code or 'mfnet_runtime.cuda' in sys.modules)")
    assert done.returncode == 0, done.stderr or "the CPU path imports mfnet_runtime.cuda"
    assert (tmp_path / "out" / "a.tif").is_file()


@pytest.mark.parametrize(
    ("module", "words", "package", "extra"),
    [
        ("mfnet.cli", ["scenes", "-o", "run", "--from-scratch"], "torch", "train"),
        ("mfnet_export.cli", ["--ckpt", "best.pt"], "torch", "export"),
        ("mfnet_export.cli", ["--ckpt", "best.pt"], "onnx_ir", "export"),
        ("mfnet_export.cli", ["--onnx", "best.onnx", "--plan"], "onnx", "interfaces"),
        ("mfnet_runtime.cli.serve", ["best.onnx"], "fastapi", "serve"),
    ],
)
def test_commands_name_the_extra_they_need(
    tmp_path: Path, module: str, words: list[str], package: str, extra: str
) -> None:
    code = f"sys.modules[{package!r}] = None; from {module} import main; sys.exit(main({words!r}))"
    done = run_python(code, cwd=tmp_path)
    assert done.returncode == 2
    assert f"needs {package}; install it with: pip install 'mfnet[{extra}]'" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_extras_exist_and_hold_what_they_are_named_for() -> None:
    tomllib = pytest.importorskip("tomllib", reason="needs Python 3.11")
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    for package, extra in EXTRAS.items():
        held = " ".join(extras[extra]).replace("-", "_")
        assert package in held or package == "onnx_ir", (
            f"{package} is not in {extra}"
        )  # onnxscript's
    files = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "Dockerfile"]
    files += [file for folder in SOURCES for file in (ROOT / folder).rglob("*.py")]
    for file in files:
        for names in re.findall(r"(?:mfnet|\.|/src)\[([a-z,]+)\]", file.read_text()):
            assert set(names.split(",")) <= extras.keys(), f"{file}: {names}"


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_engines_send_no_telemetry(tmp_path: Path, engine: str) -> None:
    """By default both send telemetry and keep a user id in the home directory."""
    if find_spec(engine) is None:
        pytest.skip(f"{engine} is not installed")
    model = write_rgbd_model(tmp_path / "rgbd.onnx")
    home = tmp_path / "home"
    home.mkdir()
    known = {name: value for name, value in os.environ.items() if name not in QUIET}
    code = (
        "from pathlib import Path; from mfnet_runtime import backend_from_file; "
        f"backend_from_file(Path({str(model)!r}), {engine!r}); "
        "assert sys.modules.get('openvino_telemetry') is None"
    )
    done = run_python(code, env={**known, "HOME": str(home)})
    assert done.returncode == 0, done.stderr
    assert list(home.iterdir()) == []
