"""The runtime must import, and run, on a machine without PyTorch, onnx or any engine's builder."""

from __future__ import annotations

import os
import pkgutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from support import write_rgbd_model, write_scene

import mfnet_runtime

HEAVY = (
    "torch",
    "torchvision",
    "onnx",
    "openvino",
    "tensorrt",
    "pycuda",
    "matplotlib",
    "mfnet",
    "mfnet_export",
)
# By these they know that they are tested, and report nothing.
QUIET = (
    "CI",
    "GITHUB_ACTIONS",
    "TF_BUILD",
    "JENKINS_URL",
    "ORT_DISABLE_TELEMETRY",
    "XDG_CACHE_HOME",
)
MODULES = [
    module.name for module in pkgutil.walk_packages(mfnet_runtime.__path__, "mfnet_runtime.")
]
BLOCK = "import sys; " + "; ".join(f"sys.modules[{name!r}] = None" for name in HEAVY)


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", f"sys_path = {sys.path!r}; {BLOCK}; sys.path[:] = sys_path; {code}"],
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("module", MODULES)
def test_imports_without_heavy_libraries(module: str) -> None:
    done = python(f"import {module}")
    assert done.returncode == 0, done.stderr


def test_runs_without_heavy_libraries(tmp_path: Path) -> None:
    model = write_rgbd_model(tmp_path / "rgbd.onnx")
    write_scene(tmp_path / "scenes")
    words = [str(model), str(tmp_path / "scenes"), "-o", str(tmp_path / "out")]
    done = python(f"from mfnet_runtime.cli.main import main; sys.exit(main({words!r}))")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "a.tif").is_file()


@pytest.mark.parametrize(
    ("module", "words", "extra"),
    [
        ("mfnet.cli", ["scenes", "-o", "run", "--from-scratch"], "train"),
        ("mfnet_export.cli", ["--ckpt", "best.pt"], "train"),
    ],
)
def test_commands_name_the_extra_they_need(
    tmp_path: Path, module: str, words: list[str], extra: str
) -> None:
    code = f"sys.modules['torch'] = None; from {module} import main; sys.exit(main({words!r}))"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:] = {sys.path!r}; {code}"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 2
    assert f"needs torch; install it with: pip install 'mfnet[{extra}]'" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_block_works() -> None:
    assert "ModuleNotFoundError" in python("import torch").stderr


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_engines_report_to_nobody(tmp_path: Path, engine: str) -> None:
    """Both do by themselves, from their import on, and leave who they take you for in your home."""
    if find_spec(engine) is None:
        pytest.skip(f"{engine} is not installed")
    model = write_rgbd_model(tmp_path / "rgbd.onnx")
    home = tmp_path / "home"
    home.mkdir()
    known = {name: value for name, value in os.environ.items() if name not in QUIET}
    code = (
        f"import sys; sys.path[:] = {sys.path!r}; from pathlib import Path; "
        f"from mfnet_runtime import backend_from_file; "
        f"backend_from_file(Path({str(model)!r}), {engine!r}); "
        "assert sys.modules.get('openvino_telemetry') is None"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**known, "HOME": str(home)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert list(home.iterdir()) == []
