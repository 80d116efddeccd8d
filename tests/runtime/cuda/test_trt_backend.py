"""TensorRT's calls, memory and faults beyond the conformance suite, on each version."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from fakes.fake_tensorrt import VERSIONS
from fakes.trt_runtime import ACTIVATIONS
from rgbd_plans import Rig, rig, write_rgbd_plan

from mfnet_runtime.backends.tensorrt.backend import TensorRtBackend
from mfnet_runtime.backends.tensorrt.context import Execution
from mfnet_runtime.errors import (
    DeviceMemoryError,
    ModelError,
    ResourceError,
)

Feed = dict[str, npt.NDArray[np.float32]]


def feed(batch: int, seed: int = 0) -> Feed:
    rng = np.random.default_rng((seed, batch))
    return {
        "image": rng.random((batch, 3, 32, 32), np.float32),
        "dsm": rng.random((batch, 1, 32, 32), np.float32),
    }


def answer(given: Feed) -> npt.NDArray[np.float32]:
    return np.concatenate([given["image"], given["dsm"]], axis=1)


@pytest.fixture(params=VERSIONS)
def machine(request: pytest.FixtureRequest) -> Iterator[Rig]:
    with rig(request.param) as machine:
        yield machine
        machine.check()


@pytest.fixture
def plan(machine: Rig, tmp_path: Path) -> Path:
    return write_rgbd_plan(tmp_path / "a.plan", machine.trt)


def allocations(machine: Rig) -> int:
    return machine.cuda.machine.allocations


@pytest.mark.parametrize("seed", range(5))
def test_answers_do_not_depend_on_the_order_in_which_the_gpu_works(
    tmp_path: Path, seed: int
) -> None:
    with rig("10.13", seed=seed) as machine:
        with TensorRtBackend(write_rgbd_plan(tmp_path / "a.plan", machine.trt)) as backend:
            for count in (4, 1, 4, 6, 2):
                given = feed(count, seed)
                np.testing.assert_array_equal(backend.infer(given)["logits"], answer(given))
        machine.check()


@pytest.mark.parametrize("precision", ["fp16", "int8+fp16"])
def test_fp16_goes_in_and_out(machine: Rig, tmp_path: Path, precision: str) -> None:
    plan = write_rgbd_plan(tmp_path / "h.plan", machine.trt, precision=precision)
    given = {name: array.astype(np.float16) for name, array in feed(3).items()}
    with TensorRtBackend(plan) as backend:
        logits = backend.infer(given)["logits"]
    assert logits.dtype == backend.inputs[0].dtype == np.float16
    np.testing.assert_array_equal(logits, np.concatenate([given["image"], given["dsm"]], axis=1))


def test_memory_is_claimed_once(machine: Rig, plan: Path) -> None:
    with TensorRtBackend(plan) as backend:
        backend.infer(feed(4))
        claimed = allocations(machine)
        for count in (4, 3, 1, 4, 2):
            backend.infer(feed(count))
        assert allocations(machine) == claimed
        backend.infer(feed(5))
        assert allocations(machine) > claimed, "a larger batch than any before"


def test_activations_have_the_memory_they_need_and_no_more(machine: Rig, plan: Path) -> None:
    """TensorRT 8.6 cannot tell how much a batch needs, so it gets what the largest does."""
    with TensorRtBackend(plan) as backend:
        backend.infer(feed(4))
        windows = 64 if machine.trt.version.startswith("8.") else 4
        tensors = 2 * 4 * (4 * 4 * 32 * 32)  # in and out, on the GPU
        weights = len(plan.with_suffix(".onnx").read_bytes())
        pinned = tensors
        held = machine.cuda.machine.held()
        assert held == ACTIVATIONS * windows + tensors + weights + pinned


def test_a_shape_is_told_when_it_changes(machine: Rig, plan: Path) -> None:
    with TensorRtBackend(plan) as backend:
        for count in (4, 4, 4, 2, 2):
            backend.infer(feed(count))
    shapes = [shape[0] for name, shape in machine.trt.called("IExecutionContext.set_input_shape")]
    assert shapes == [4, 4, 2, 2], "image and DSM, at the first batch and at the first of two"


def test_activations_of_fewer_windows_may_need_more_memory(tmp_path: Path) -> None:
    with rig("11.4") as machine:
        machine.trt.script["activations"] = {2: 50 * ACTIVATIONS}
        with TensorRtBackend(write_rgbd_plan(tmp_path / "a.plan", machine.trt)) as backend:
            for count in (4, 2, 4, 2, 1):
                given = feed(count)
                np.testing.assert_array_equal(backend.infer(given)["logits"], answer(given))
        machine.check()


def test_fewer_windows_than_the_plans_smallest_batch(machine: Rig, tmp_path: Path) -> None:
    plan = write_rgbd_plan(tmp_path / "b.plan", machine.trt, profile=(4, 8, 8))
    with TensorRtBackend(plan) as backend:
        for count in (1, 3, 8):
            given = feed(count)
            np.testing.assert_array_equal(backend.infer(given)["logits"], answer(given))


def test_more_windows_than_the_plans_largest_batch(machine: Rig, tmp_path: Path) -> None:
    plan = write_rgbd_plan(tmp_path / "b.plan", machine.trt, profile=(1, 4, 8))
    with TensorRtBackend(plan) as backend:
        with pytest.raises(ModelError, match=r"b\.plan: a batch of 9 windows; .*at most 8"):
            backend.infer(feed(9))
        assert len(backend.infer(feed(8))["logits"]) == 8


def test_the_asked_batch_is_the_best_up_to_the_largest(machine: Rig, plan: Path) -> None:
    for asked, best in ((None, 4), (2, 2), (500, 64)):
        with TensorRtBackend(plan, batch=asked) as backend:
            assert (backend.batches.best, backend.batches.largest) == (best, 64)


@pytest.mark.parametrize("refused", range(4 + 3))  # on the GPU, page-locked
def test_a_batch_that_does_not_fit_is_refused_and_a_smaller_one_runs(
    tmp_path: Path, refused: int
) -> None:
    """Whichever allocation fails, nothing of the failed attempt is left."""
    with rig("11.4") as machine:
        with TensorRtBackend(write_rgbd_plan(tmp_path / "a.plan", machine.trt)) as backend:
            given = feed(2)
            backend.infer(given)
            held = machine.cuda.machine.held()
            machine.cuda.machine.refuse_allocation = allocations(machine) + refused
            with pytest.raises(DeviceMemoryError, match=r"out of memory; use a smaller --batch"):
                backend.infer(feed(8))
            np.testing.assert_array_equal(backend.infer(given)["logits"], answer(given))
            assert machine.cuda.machine.held() == held
        machine.check()


def test_no_context(machine: Rig, plan: Path) -> None:
    machine.trt.script["context"] = "none"
    with (
        TensorRtBackend(plan) as backend,
        pytest.raises(ModelError, match=r"cannot prepare it .*no context today"),
    ):
        backend.infer(feed(1))


def test_runs_that_tensorrt_refuses_each_with_its_reason(machine: Rig, plan: Path) -> None:
    with TensorRtBackend(plan) as backend:
        for reason, kind in (
            ("Cuda Runtime (out of memory)", ResourceError),
            ("tactic failed", ModelError),
        ):
            machine.trt.script |= {"execute": [False, True], "refusal": reason}
            with pytest.raises(kind, match=rf"a\.plan: .*{re.escape(reason)}"):
                backend.infer(feed(2))
            given = feed(2)
            np.testing.assert_array_equal(backend.infer(given)["logits"], answer(given))


def test_threads_share_an_engine_by_an_execution_each(tmp_path: Path) -> None:
    with rig("10.13") as machine:
        with TensorRtBackend(write_rgbd_plan(tmp_path / "a.plan", machine.trt)) as backend:
            backend.infer(feed(1))
            wrong: list[int] = []

            def run(seed: int) -> None:
                with backend.cuda.current():
                    own = Execution(backend.engine, 3)
                    stream = backend.cuda.stream()
                    given, logits = feed(3, seed), np.empty((3, 4, 32, 32), np.float32)
                    for _ in range(5):
                        backend.cuda.upload(own.image, given["image"], stream)
                        backend.cuda.upload(own.dsm, given["dsm"], stream)
                        own.enqueue(3, stream)
                        backend.cuda.download(logits, own.logits, stream)
                        stream.synchronize()
                        if not np.array_equal(logits, answer(given)):
                            wrong.append(seed)
                    stream.free()
                    own.close()

            threads = [threading.Thread(target=run, args=(seed,)) for seed in range(3)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert wrong == []
            assert len(machine.trt.called("Runtime.deserialize_cuda_engine")) == 1
        machine.check()


def test_milliseconds_on_the_device(machine: Rig, plan: Path) -> None:
    with TensorRtBackend(plan) as backend:
        backend.infer(feed(4))
        copies = machine.cuda.machine.calls.count("cuMemcpyHtoDAsync")
        found = backend.device_ms(feed(4), 10)
        assert len(found) == 10
        assert min(found) > 0
        again = machine.cuda.machine.calls.count("cuMemcpyHtoDAsync")
        assert again == copies + 2, "image and DSM, once for all runs"
        given = feed(2)
        np.testing.assert_array_equal(backend.infer(given)["logits"], answer(given))
