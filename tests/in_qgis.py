"""QGIS's own Python, headless, as a process."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from support import outside

PYTHON = "/usr/bin/python3"  # Debian's python3-qgis belongs to it
SCRIPT = Path(__file__).with_name("qgis_layers.py")


def layers_in_qgis(width: int, height: int, *files: Path) -> dict[str, Any]:
    """Load files into QGIS and draw each as `<file>.png` of the given size.

    Returns:
        Renderer and legend for each file name. Skips the test where QGIS is not installed.
    """
    if not Path(PYTHON).exists() or _run("-c", "import qgis.core").returncode != 0:
        pytest.skip("needs QGIS: apt-get install python3-qgis")
    done = _run(SCRIPT, width, height, *files)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _run(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [PYTHON, *map(str, words)],
        env={**outside(), "QT_QPA_PLATFORM": "offscreen"},
        capture_output=True,
        text=True,
        check=False,
    )
