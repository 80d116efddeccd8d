"""What holds for every backend of ONNX files on a CPU, beyond the conformance suite."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from mfnet_runtime.backends import backend_from_file
from mfnet_runtime.errors import ModelError


def test_threads_are_the_physical_cores_unless_told(name: str, model: Path) -> None:
    with backend_from_file(model, name) as backend:
        assert 1 <= backend.threads <= len(os.sched_getaffinity(0))


def fails_for_some_values(path: Path) -> Path:
    """The same answers, but where the DSM's largest value is not 32 the engine raises a fault."""
    model = onnx.load(path)
    graph = model.graph
    graph.node[0].output[0] = "stack"
    for name, value in (("axis", np.array([0])), ("before", np.array([-1, 4, 32]))):
        graph.initializer.append(onnx.numpy_helper.from_array(value, name))
    graph.initializer.append(onnx.numpy_helper.from_array(np.array(0, np.float32), "zero"))
    graph.node.extend(
        [
            helper.make_node("ReduceMax", ["dsm"], ["largest"], keepdims=0),
            helper.make_node("Cast", ["largest"], ["whole"], to=onnx.TensorProto.INT64),
            helper.make_node("Unsqueeze", ["whole", "axis"], ["columns"]),
            helper.make_node("Concat", ["before", "columns"], ["shape"], axis=0),
            helper.make_node("Reshape", ["stack", "shape"], ["same"]),
            helper.make_node("ReduceSum", ["same"], ["sum"], keepdims=0),
            helper.make_node("Mul", ["sum", "zero"], ["nothing"]),
            helper.make_node("Add", ["stack", "nothing"], ["logits"]),
        ]
    )
    onnx.save(model, path)
    return path


def test_a_fault_of_one_batch_is_not_raised_for_the_next(name: str, model: Path) -> None:
    rng = np.random.default_rng(0)
    good = {
        "image": rng.random((5, 3, 32, 32), np.float32),
        "dsm": rng.random((5, 1, 32, 32), np.float32),
    }
    bad = {key: array.copy() for key, array in good.items()}
    good["dsm"][:, :, 0, 0], bad["dsm"][:, :, 0, 0] = 32.0, 7.0
    with backend_from_file(fails_for_some_values(model), name, threads=2, batch=2) as backend:
        for _ in range(2):
            with pytest.raises(ModelError, match=r"rgbd\.onnx: .* cannot run it .*[Rr]eshape"):
                backend.infer(bad)
            logits = backend.infer(good)["logits"]
            np.testing.assert_array_equal(logits, np.concatenate([good["image"], good["dsm"]], 1))


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


@pytest.mark.skipif(sys.platform != "linux", reason="limits address space by rlimit")
def test_a_batch_too_large_is_named_and_a_smaller_one_still_runs(model: Path, name: str) -> None:
    """In a child process that gets no more address space than it holds."""
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


def test_a_signal_after_two_models_were_closed(model: Path) -> None:
    """OpenVINO has left the thread a signal stack that is gone; any signal ended the process."""
    pytest.importorskip("openvino")
    code = f"""
import faulthandler, gc, os, signal, sys
faulthandler.enable()  # which gives a signal stack, too
sys.path[:] = {sys.path!r}
from pathlib import Path
from mfnet_runtime.backends import backend_from_file
opened = [backend_from_file(Path({str(model)!r}), "openvino") for _ in range(2)]
while opened:
    opened.pop(0).__exit__()
    gc.collect()
try:
    os.kill(os.getpid(), signal.SIGINT)
except KeyboardInterrupt:
    sys.exit(7)
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 7
