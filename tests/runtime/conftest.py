"""What tests of the runtime run: the tiny model in a file, and every backend that is installed."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
from support import write_rgbd_model

from mfnet_runtime.backends import RUNS


@pytest.fixture(params=RUNS[".onnx", "cpu"])
def name(request: pytest.FixtureRequest) -> str:
    if find_spec(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    return str(request.param)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_rgbd_model(tmp_path / "rgbd.onnx")
