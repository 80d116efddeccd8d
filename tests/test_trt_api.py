"""The fakes of TensorRT have what TensorRT's own bindings have, and no more.

All code that uses TensorRT runs on the fakes of every version, which refuse a member that the
version lacks.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from fakes import record_trt_api
from fakes.fake_tensorrt import LEAN, RECORDED, RTX, VERSIONS, fake_tensorrt

from mfnet_runtime.backends.tensorrt.engine import recording_logger


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
    ("package", "version"),
    [
        ("tensorrt_bindings", "11.4"),
        ("tensorrt_lean_bindings", LEAN),
        ("tensorrt_rtx_bindings", RTX),
    ],
)
def test_recorded_lists_are_those_of_the_bindings(package: str, version: str) -> None:
    """In a process of its own: bindings without their libraries must not stay loaded."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        pytest.skip(f"{package} is not installed")
    if not all(map(shutil.which, ("gcc", "nm", "readelf"))):
        pytest.skip("no gcc and binutils, which empty libraries are made with")
    done = subprocess.run(
        [sys.executable, str(record_trt_api.__file__), str(Path(spec.origin).parent)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    recorded = json.loads((RECORDED / f"{version}.json").read_text())
    if found["version"] != recorded["version"]:
        pytest.skip(f"{package} {found['version']} is not the version recorded")
    assert found == recorded
