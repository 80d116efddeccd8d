"""When memory really runs out: a child process gets no more address space than it holds."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from support import write_rgbd_model

from mfnet_runtime.backends import RUNS

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits address space by rlimit")

CHILD = """
import re, resource, sys
from pathlib import Path
import numpy as np
from mfnet_runtime.backends import backend_from_file
from mfnet_runtime.errors import ResourceError

def limit(more):
    held = int(re.search(r"VmSize:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) << 10
    resource.setrlimit(resource.RLIMIT_AS, (held + (more << 20), resource.RLIM_INFINITY))

with backend_from_file(Path(sys.argv[1]), sys.argv[2], threads=1) as backend:
    large, small = (
        {"image": np.zeros((n, 3, 32, 32), np.float32), "dsm": np.zeros((n, 1, 32, 32), np.float32)}
        for n in (16384, 2)
    )
    backend.infer(small)
    limit(64)  # MiB; the logits of `large` take 256
    try:
        backend.infer(large)
    except ResourceError as fault:
        print(fault)
    print(backend.infer(small)["logits"].shape)
"""


@pytest.mark.parametrize("name", RUNS[".onnx", "cpu"])
def test_a_batch_too_large_is_named_and_a_smaller_one_still_runs(tmp_path: Path, name: str) -> None:
    if find_spec(name) is None:
        pytest.skip(f"{name} is not installed")
    model = write_rgbd_model(tmp_path / "rgbd.onnx")
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:] = {sys.path!r}\n{CHILD}", model, name],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    fault, after = done.stdout.splitlines()
    assert re.search(r"rgbd\.onnx: a batch of 16384 windows does not fit in memory", fault)
    assert "smaller --batch" in fault
    assert after == "(2, 4, 32, 32)"
