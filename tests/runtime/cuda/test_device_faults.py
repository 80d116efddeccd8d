"""A run on the simulated GPU that fails anywhere: exit code, one line, nothing left behind."""

from __future__ import annotations

import gc
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from rgbd_plans import Rig, rig, write_rgbd_plan
from support import read, results_in, rgbd_classes, write_scene

from mfnet_runtime.backends.tensorrt.backend import TensorRtBackend
from mfnet_runtime.cli.main import main
from mfnet_runtime.errors import DeviceLostError, ResourceError, UsageError
from mfnet_runtime.scene.discovery import Scene
from mfnet_runtime.scene.reader import SceneReader
from mfnet_runtime.tiling.classes import FinishedRows
from mfnet_runtime.tiling.options import PROCESSORS, Processor
from mfnet_runtime.tiling.pipeline import SegmentOptions, segment_scene

Capture = pytest.CaptureFixture[str]
WHOLE = ["a.qml", "a.tif", "a.tif.aux.xml"]  # the outputs of a scene


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    assert [thread for thread in threading.enumerate() if thread.name.startswith("mfnet-")] == []


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return write_scene(tmp_path / "scenes", height=70, width=64, label=True)


def run(plan: Path, *words: object) -> int:
    scenes = plan.parent / "scenes"
    return main([str(word) for word in (plan, scenes, "-o", plan.parent / "out", *words)])


def left(plan: Path) -> list[str]:
    """Files in the folder of outputs."""
    out = plan.parent / "out"
    return results_in(out) if out.exists() else []


def segmented(plan: Path, scene: Scene, options: SegmentOptions) -> int:
    """Segment a scene in memory; returns the batch."""
    with TensorRtBackend(plan) as backend, SceneReader(scene) as reader:
        return segment_scene(backend, reader, lambda rows: None, options).batch


def test_a_plan_runs_on_the_gpu_by_itself(tmp_path: Path, scene: Scene, capsys: Capture) -> None:
    with rig("10.13") as machine:
        plan = write_rgbd_plan(tmp_path / "best.plan", machine.trt)
        assert run(plan, "--json") == 0
        said = capsys.readouterr()
        summary = json.loads(said.out)
        assert summary["device"] == "NVIDIA Fake, TensorRT 10.13.3.9"
        assert (summary["backend"], summary["preprocess"]) == ("tensorrt", "gpu")
        assert summary["scenes"][0]["batch"] == 4
        assert "best.plan in fp32 on NVIDIA Fake, TensorRT 10.13.3.9\n" in said.err
        assert scene.label is not None
        np.testing.assert_array_equal(read(tmp_path / "out" / "a.tif"), read(scene.label))
        assert run(plan, "--preprocess", "cpu", "--json") == 0
        assert json.loads(capsys.readouterr().out)["preprocess"] == "cpu"
        np.testing.assert_array_equal(read(tmp_path / "out" / "a.tif"), read(scene.label))
        machine.check()


@pytest.mark.parametrize("preprocess", ["gpu", "cpu"])
def test_a_gpu_that_fails_at_any_call_ends_the_run(
    tmp_path: Path, scene: Scene, capsys: Capture, preprocess: str
) -> None:
    machines: list[Rig] = []
    for at in range(0, 10_000, 23):
        with rig("10.13", seed=at) as machine:
            machines.append(machine)
            plan = write_rgbd_plan(tmp_path / "a.plan", machine.trt)
            machine.cuda.machine.lose_at = at
            code = run(plan, "--preprocess", preprocess)
        err = [line for line in capsys.readouterr().err.splitlines() if "rror" in line]
        if not machine.cuda.machine.lost:
            assert (code, left(plan)) == (0, WHOLE)
            break
        # 2: lost before it was opened; 0: all was done, and it was lost while giving memory back
        assert code == (2 if at < 4 else 5) or (code, left(plan)) == (0, WHOLE)
        if code:
            assert len(err) == 1, err
            assert left(plan) == []
        for path in (tmp_path / "out").glob("*"):
            path.unlink()
    gc.collect()
    for machine in machines:
        assert len(machine.cuda.machine.calls_after_loss) <= 1
        machine.cuda.check()
    assert len(machines) > 3


@pytest.mark.parametrize("preprocess", PROCESSORS)
def test_a_gpu_that_fails_at_any_call_of_a_scene(
    tmp_path: Path, scene: Scene, preprocess: Processor
) -> None:
    """One fault, no destructor, and no call once it is known, at many more calls than above.

    TensorRT only says that it failed: one call of ours then asks the device.
    """
    machines: list[Rig] = []
    said: list[str] = []
    for at in (*range(40), *range(40, 10_000, 13)):
        with rig("11.4", seed=at) as machine:
            machines.append(machine)
            plan = write_rgbd_plan(tmp_path / "a.plan", machine.trt)
            machine.cuda.machine.lose_at = at
            try:
                segmented(plan, scene, SegmentOptions(32, batch=2, preprocess=preprocess))
            except (DeviceLostError, UsageError) as fault:  # usage: lost before it was opened
                said.append(str(fault))
        if not machine.cuda.machine.lost:
            break
    gc.collect()
    assert not [text for text in said if "--batch" in text], "no batch would be small enough"
    for machine in machines:
        assert len(machine.cuda.machine.calls_after_loss) <= 1
        machine.cuda.check()
    assert len(said) > 30


def test_memory_refused_at_any_allocation(tmp_path: Path, scene: Scene) -> None:
    """The batch falls or the scene is refused; either way all memory is given back."""
    outcomes: list[str] = []
    while "all fit" not in outcomes:
        with rig("10.13") as machine:
            plan = write_rgbd_plan(tmp_path / "a.plan", machine.trt)
            machine.cuda.machine.refuse_allocation = len(outcomes)
            try:
                batch = segmented(plan, scene, SegmentOptions(16))
                fit = machine.cuda.machine.allocations <= len(outcomes)
                outcomes.append("all fit" if fit else f"batch {batch}")
            except ResourceError as fault:
                outcomes.append("remedy" if "--preprocess cpu" in str(fault) else str(fault))
            machine.check()
    weights, *tensors = outcomes[:5]
    assert "does not fit in the GPU's memory" in weights
    assert tensors == ["batch 2"] * 4, "image, DSM, logits and activations"
    assert set(outcomes[5:-1]) == {"remedy"}
    assert len(outcomes) > 40


def test_a_batch_asked_for_does_not_step_down(tmp_path: Path, scene: Scene) -> None:
    with rig("10.13") as machine:
        plan = write_rgbd_plan(tmp_path / "a.plan", machine.trt)
        machine.cuda.machine.refuse_allocation = 2
        with pytest.raises(ResourceError, match=r"--batch 4 does not fit: use a smaller --batch"):
            segmented(plan, scene, SegmentOptions(16, batch=4))
        machine.check()


def test_a_batch_above_the_plans_largest_names_both(
    tmp_path: Path, scene: Scene, capsys: Capture
) -> None:
    with rig("10.13") as machine:
        plan = write_rgbd_plan(tmp_path / "a.plan", machine.trt, profile=(1, 4, 8))
        assert run(plan, "--batch", 9) == 2
        assert "--batch 9: the model takes at most 8 windows a call" in capsys.readouterr().err
        assert left(plan) == []
        with pytest.raises(UsageError, match=r"--batch 9: .*at most 8"):
            segmented(plan, scene, SegmentOptions(16, batch=9))
        machine.check()


def test_a_fault_of_the_reader_or_the_sink_frees_the_gpu(tmp_path: Path, scene: Scene) -> None:
    with rig("10.13") as machine:
        plan = write_rgbd_plan(tmp_path / "a.plan", machine.trt)
        with TensorRtBackend(plan) as backend, SceneReader(scene) as reader:
            for _ in range(2):

                def sink(rows: object) -> None:
                    raise KeyboardInterrupt

                with pytest.raises(KeyboardInterrupt):
                    segment_scene(backend, reader, sink, SegmentOptions(8, batch=1))
            rows: list[FinishedRows] = []
            segment_scene(backend, reader, rows.append, SegmentOptions(8))
            whole = reader.read(0, reader.height)
        span = whole.dsm.max() - whole.dsm.min()
        expected = rgbd_classes(whole.image, (whole.dsm - whole.dsm.min()) / span)
        np.testing.assert_array_equal(np.concatenate([part.classes for part in rows]), expected)
        machine.check()
