"""One conformance suite: what holds for every backend that is installed, whatever it is.

TensorRT runs as a fake that has just what each version has, on a fake GPU; with `-m gpu`, the real
one runs on this machine's GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from fakes.fake_tensorrt import LEAN, VERSIONS
from rgbd_plans import rig, write_rgbd_plan
from support import RGBD, write_rgbd_model

from mfnet_export.cli import main as export
from mfnet_export.tensorrt.machine import NoBuilderError, require_builder
from mfnet_runtime.backends import RUNS, backend_from_file
from mfnet_runtime.backends.tensorrt.plan_file import sidecar_of
from mfnet_runtime.contract import Contract
from mfnet_runtime.cuda.device import CudaDevice
from mfnet_runtime.errors import ModelError, UsageError


@dataclass(frozen=True)
class Engine:
    """A backend, and what of it differs from others."""

    name: str
    write: Callable[[Path, int], Path]  # the tiny model of a window, in a file it runs
    place: str  # in its device
    threads: int  # it has of two asked for


@cache
def _real_plan(window: int) -> tuple[bytes, str]:
    with TemporaryDirectory() as folder:
        source = write_rgbd_model(Path(folder) / "rgbd.onnx", window)
        assert export(["--onnx", str(source), "--plan", "--batches", "1,4,64"]) == 0
        plan = source.with_suffix(".plan")
        return plan.read_bytes(), sidecar_of(plan).read_text()


def write_real_plan(path: Path, window: int) -> Path:
    """The plan that this machine's TensorRT builds, once for each window."""
    plan, facts = _real_plan(window)
    path = path.with_suffix(".plan")
    path.write_bytes(plan)
    sidecar_of(path).write_text(facts)
    return path


GPU = pytest.param("real GPU", marks=pytest.mark.gpu)


@pytest.fixture(params=[*RUNS[".onnx", "cpu"], *VERSIONS, LEAN, GPU])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    which = request.param
    if which == "real GPU":
        try:
            require_builder()
            CudaDevice()
        except (ModuleNotFoundError, UsageError, NoBuilderError) as fault:
            pytest.skip(str(fault))
        yield Engine("tensorrt", write_real_plan, ", TensorRT", 0)
    elif which in (*VERSIONS, LEAN):
        lean = which == LEAN
        with rig(which, "tensorrt_lean_bindings" if lean else None) as machine:

            def write(path: Path, window: int) -> Path:
                plan = path.with_suffix(".plan")
                return write_rgbd_plan(plan, machine.trt, window=window, version_compatible=lean)

            yield Engine("tensorrt", write, "NVIDIA Fake, TensorRT", 0)
            machine.check()
    else:
        if find_spec(which) is None:
            pytest.skip(f"{which} is not installed")
        yield Engine(which, lambda path, window: write_rgbd_model(path, window), "CPU", 2)


@pytest.fixture
def name(engine: Engine) -> str:
    return engine.name


@pytest.fixture
def model(tmp_path: Path, engine: Engine) -> Path:
    return engine.write(tmp_path / "rgbd.onnx", 32)


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


def test_says_what_it_is(engine: Engine, model: Path) -> None:
    with backend_from_file(model, engine.name, threads=2) as backend:
        assert backend.name == engine.name
        assert engine.place in backend.device
        assert backend.precision == "fp32"
        assert backend.threads == engine.threads
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
        assert backend.batches.best == batch


def test_unless_told_it_is_best_at_four_windows(name: str, model: Path) -> None:
    with backend_from_file(model, name) as backend:
        assert backend.batches.best == 4


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


def test_two_at_a_time_do_not_mix(engine: Engine, model: Path, tmp_path: Path) -> None:
    other, name = engine.write(tmp_path / "wide.onnx", 64), engine.name
    with backend_from_file(model, name) as small, backend_from_file(other, name) as large:
        near, far = small.infer(feed(1))["logits"], large.infer(feed(1, window=64))["logits"]
        assert (near.shape[-1], far.shape[-1]) == (32, 64)
        np.testing.assert_array_equal(near[:, :3], feed(1)["image"])


@pytest.mark.parametrize("precision", ["fp16", "int8", "BF16", ""])
def test_unknown_precision(name: str, model: Path, precision: str) -> None:
    with pytest.raises(UsageError, match=r"no precision named .*; choose fp32 or bf16"):
        backend_from_file(model, name, precision=precision)


def test_fp32_may_be_asked_for(name: str, model: Path) -> None:
    with backend_from_file(model, name, precision="fp32") as backend:
        assert backend.precision == "fp32"
