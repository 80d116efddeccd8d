"""What holds for every backend of ONNX files on a CPU beyond the conformance suite."""

from __future__ import annotations

import os
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
