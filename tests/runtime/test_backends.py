"""One conformance suite: what holds for every backend that is installed, whatever it is."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from support import RGBD, write_rgbd_model

from mfnet_runtime.backends import backend_from_file
from mfnet_runtime.contract import Contract
from mfnet_runtime.errors import ModelError, UsageError


def feed(batch: int = 2, window: int = 32, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng((seed, batch))
    return {
        "image": rng.random((batch, 3, window, window), np.float32),
        "dsm": rng.random((batch, 1, window, window), np.float32),
    }


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_infers_any_batch(name: str, model: Path, batch: int) -> None:
    given = feed(batch)
    with backend_from_file(model, name) as backend:
        logits = backend.infer(given)["logits"]
        assert logits.dtype == np.float32
        np.testing.assert_array_equal(logits, np.concatenate([given["image"], given["dsm"]], 1))


def test_says_what_it_is(name: str, model: Path) -> None:
    with backend_from_file(model, name, threads=1) as backend:
        assert backend.name == name
        assert "CPU" in backend.device
        assert backend.precision == "fp32"
        assert backend.threads == 1
        assert backend.contract == Contract(32, RGBD)
        assert [spec.name for spec in backend.inputs] == ["image", "dsm"]
        assert backend.outputs[0].shape == (-1, 4, 32, 32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: {"image": f["image"]}, r"feed has image; the model takes image, dsm"),
        (lambda f: {**f, "extra": f["dsm"]}, r"feed has dsm, extra, image"),
        (lambda f: {**f, "dsm": f["dsm"].astype(np.float64)}, r"'dsm' is float64"),
        (lambda f: {**f, "image": f["image"][:, :2]}, r"'image' is float32 \(2, 2, 32, 32\)"),
        (lambda f: {**f, "image": f["image"][0]}, r"'image' is float32 \(3, 32, 32\)"),
        (lambda f: {**f, "dsm": f["dsm"][:1]}, r"batch sizes \[1, 2\]"),
        (lambda f: {key: array[:0] for key, array in f.items()}, r"batch sizes \[0\]"),
    ],
)
def test_refuses_a_wrong_feed(name: str, model: Path, change, message: str) -> None:  # type: ignore[no-untyped-def]
    with backend_from_file(model, name) as backend, pytest.raises(ModelError, match=message):
        backend.infer(change(feed()))


@pytest.mark.parametrize("batch", [1, 2, 3, 64])
def test_the_batch_it_is_made_for_changes_no_answer(name: str, model: Path, batch: int) -> None:
    with backend_from_file(model, name, threads=2, batch=batch) as backend:
        for count in (3, 1, 2, 7):
            given = feed(count)
            stack = np.concatenate([given["image"], given["dsm"]], axis=1)
            np.testing.assert_array_equal(backend.infer(given)["logits"], stack)
        assert backend.threads == 2


def test_threads_are_the_physical_cores_unless_told(name: str, model: Path) -> None:
    with backend_from_file(model, name) as backend:
        assert 1 <= backend.threads <= len(os.sched_getaffinity(0))


def test_logits_hold_until_the_next_call(name: str, model: Path) -> None:
    first, second = feed(2), feed(2, seed=1)
    with backend_from_file(model, name, batch=2) as backend:
        logits = backend.infer(first)["logits"]
        np.testing.assert_array_equal(logits[:, :3], first["image"])
        logits = backend.infer(second)["logits"]
        np.testing.assert_array_equal(logits[:, :3], second["image"])


def test_inputs_may_be_read_only_or_views_and_stay_as_they_are(name: str, model: Path) -> None:
    wide = {key: np.repeat(array, 2, axis=-1) for key, array in feed(3).items()}
    before = {key: array.copy() for key, array in wide.items()}
    given = {key: array[..., ::2] for key, array in wide.items()}
    for array in given.values():
        array.flags.writeable = False
    with backend_from_file(model, name) as backend:
        logits = backend.infer(given)["logits"]
    np.testing.assert_array_equal(logits, np.concatenate([given["image"], given["dsm"]], axis=1))
    for key, array in wide.items():
        np.testing.assert_array_equal(array, before[key])


def test_entered_and_left_again_and_again(name: str, model: Path) -> None:
    for _ in range(3):
        with backend_from_file(model, name) as backend:
            assert backend.infer(feed(1))["logits"].shape == (1, 4, 32, 32)


def test_a_fault_inside_leaves_it_and_is_not_swallowed(name: str, model: Path) -> None:
    with pytest.raises(KeyError), backend_from_file(model, name):
        raise KeyError("ours")


def test_it_still_runs_after_a_refused_feed(name: str, model: Path) -> None:
    with backend_from_file(model, name) as backend:
        with pytest.raises(ModelError):
            backend.infer({})
        assert len(backend.infer(feed(2))["logits"]) == 2


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
    good, bad = feed(5), feed(5)
    good["dsm"][:, :, 0, 0], bad["dsm"][:, :, 0, 0] = 32.0, 7.0
    with backend_from_file(fails_for_some_values(model), name, threads=2, batch=2) as backend:
        for _ in range(2):
            with pytest.raises(Exception, match=r"[Rr]eshape"):
                backend.infer(bad)
            logits = backend.infer(good)["logits"]
            np.testing.assert_array_equal(logits, np.concatenate([good["image"], good["dsm"]], 1))


def test_two_at_a_time_do_not_mix(name: str, model: Path, tmp_path: Path) -> None:
    other = write_rgbd_model(tmp_path / "wide.onnx", window=64)
    with backend_from_file(model, name) as small, backend_from_file(other, name) as large:
        near, far = small.infer(feed(1))["logits"], large.infer(feed(1, window=64))["logits"]
        assert (near.shape[-1], far.shape[-1]) == (32, 64)
        np.testing.assert_array_equal(near[:, :3], feed(1)["image"])


@pytest.mark.parametrize("precision", ["fp16", "int8", "BF16", ""])
def test_unknown_precision(name: str, model: Path, precision: str) -> None:
    with pytest.raises(UsageError, match=r"no precision named .*; there are fp32, bf16"):
        backend_from_file(model, name, precision=precision)


def test_fp32_may_be_asked_for(name: str, model: Path) -> None:
    with backend_from_file(model, name, precision="fp32") as backend:
        assert backend.precision == "fp32"
