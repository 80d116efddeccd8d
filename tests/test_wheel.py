"""What a newcomer does, from an installed wheel instead of the source tree."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a fresh virtual environment with the base install."""
    folder = tmp_path_factory.mktemp("wheel")
    build = ["wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run([sys.executable, "-m", "pip", *build], check=True)
    (wheel,) = folder.glob("*.whl")
    subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True)
    python = folder / "venv" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", str(wheel)], check=True)
    return python


def test_the_demo(python: Path, tmp_path: Path) -> None:
    command = [str(python.with_name("mfnet-run")), "demo", "-o", "maps"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert {"demo.tif", "demo.png"} <= {path.name for path in (tmp_path / "maps").iterdir()}


def test_three_lines_of_python(python: Path, tmp_path: Path) -> None:
    code = """
import numpy as np
import mfnet_runtime as mf
from mfnet_runtime.demo import MODEL, SCENE
with mf.load(MODEL) as model:
    classes = model.predict(np.zeros((3, 300, 200), np.uint8), np.random.rand(300, 200))
    row = model.segment(SCENE.image, dsm=SCENE.dsm, out="map.tif")
print(classes.shape, row["status"], mf.__version__)
"""
    done = subprocess.run([python, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("(300, 200) done ")
