"""Scenes processed on the simulated GPU equal those processed on the CPU, bit by bit.

The simulation works in any order that streams and events allow, drawn from a seed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from memory_scene import MemoryScene, class_map
from memory_scene import noise_scene as scene
from onnx import helper
from rgbd_plans import Rig, rig, write_rgbd_plan
from support import RGBD

from mfnet_runtime.backends.tensorrt.backend import TensorRtBackend
from mfnet_runtime.contract import Contract, DsmRule, ImageRule
from mfnet_runtime.errors import ModelError, UsageError
from mfnet_runtime.labels import IGNORE
from mfnet_runtime.tiling import gpu_staging as staging
from mfnet_runtime.tiling.batch_size import BatchSize
from mfnet_runtime.tiling.classes import FinishedRows
from mfnet_runtime.tiling.options import BLENDS, PUBLISHED, AskedBatch, BlendName, Processor
from mfnet_runtime.tiling.pipeline import SegmentOptions, segment_scene

CLASSES = len(RGBD)


def positional(graph: onnx.GraphProto) -> None:
    """Logits also depend on the place in the window, so that it matters what windows weigh."""
    graph.node[0].output[0] = "stack"
    kind = helper.tensor_dtype_to_np_dtype(graph.output[0].type.tensor_type.elem_type)
    place = np.random.default_rng(1).uniform(0, 0.5, (1, CLASSES, 32, 32)).astype(kind)
    graph.initializer.append(onnx.numpy_helper.from_array(place, "place"))
    graph.node.append(helper.make_node("Add", ["stack", "place"], ["logits"]))


@pytest.fixture
def machine() -> Iterator[Rig]:
    with rig("10.13") as machine:
        yield machine
        machine.check()


def both_ways(
    plan: Path, found: MemoryScene, options: SegmentOptions
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Class maps of the CPU's and of the GPU's way; their reports are found to be equal."""
    maps, reports = [], []
    with TensorRtBackend(plan) as backend:
        for where in ("cpu", "gpu"):
            rows: list[FinishedRows] = []
            asked = replace(options, preprocess=where)
            report = asdict(segment_scene(backend, found, rows.append, asked))
            reports.append({key: value for key, value in report.items() if key[-2:] != "_s"})
            maps.append(class_map(rows, found.height, found.width))
    if "fp16" not in plan.name and options.batch != "auto":
        assert reports[0] == reports[1]
    return maps[0], maps[1]


def assert_same(
    tmp_path: Path,
    machine: Rig,
    found: MemoryScene,
    options: SegmentOptions,
    **contract: Any,
) -> None:
    facts: dict[str, Any] = {"contract": Contract(32, RGBD, **contract)} if contract else {}
    plan = write_rgbd_plan(tmp_path / "a.plan", machine.trt, change=positional, **facts)
    by_cpu, by_gpu = both_ways(plan, found, options)
    assert by_gpu.shape == (found.height, found.width)
    np.testing.assert_array_equal(by_gpu, by_cpu)
    machine.check()


@pytest.mark.parametrize("seed", range(12))
def test_in_whatever_order_the_gpu_works(tmp_path: Path, seed: int) -> None:
    with rig("10.13", seed=seed) as machine:
        assert_same(tmp_path, machine, scene(90, 70, seed=seed), SegmentOptions(16, batch=3))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("staged", [1, 20_000])
def test_rings_go_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, staged: int
) -> None:
    """Rows of a tall scene take the places of others that are done with."""
    monkeypatch.setattr(staging, "STAGED", staged)
    with rig("10.13", seed=seed) as machine:
        found = scene(230, 40, seed=seed)
        assert_same(tmp_path, machine, found, SegmentOptions(16, batch=4))


@pytest.mark.parametrize("blend", BLENDS)
@pytest.mark.parametrize("stride", [32, 16, 7])
@pytest.mark.parametrize("size", [(40, 48), (32, 32), (5, 100), (100, 31), (20, 9), (1, 1)])
def test_sizes_strides_and_blending(
    tmp_path: Path, machine: Rig, size: tuple[int, int], stride: int, blend: BlendName
) -> None:
    assert_same(tmp_path, machine, scene(*size), SegmentOptions(stride, blend))


@pytest.mark.parametrize(
    ("stored", "top"),
    [
        ("uint8", 255),
        ("uint16", 65535),
        ("float32", 1.0),
        ("int16", 10000),
        ("int32", 16777217),
        ("float64", 1e4),
    ],
)
def test_number_types_of_images(tmp_path: Path, machine: Rig, stored: str, top: float) -> None:
    found = scene(50, 60, stored, top)
    assert_same(
        tmp_path, machine, found, SegmentOptions(16), image=ImageRule(full_scale=float(top))
    )


@pytest.mark.parametrize(
    "rule",
    [
        DsmRule(),
        DsmRule("scene_percentile", 2, 98),
        DsmRule("range", 250.5, 300.25),
        DsmRule("range", -1e5, 1e5),
    ],
)
def test_every_dsm_rule(tmp_path: Path, machine: Rig, rule: DsmRule) -> None:
    assert_same(tmp_path, machine, scene(50, 60), SegmentOptions(16), dsm=rule)
    if rule.name == "range":
        options = SegmentOptions(16, dsm_range=(rule.low, rule.high))
        assert_same(tmp_path, machine, scene(50, 60), options)


@pytest.mark.parametrize(
    ("width", "block", "stride", "blend"),
    [(34, 3, 32, "hann"), (100, 50, 16, "uniform"), (100, 33, 13, "hann"), (100, 99, 32, "hann")],
)
def test_blocks_of_columns(
    tmp_path: Path, machine: Rig, width: int, block: int, stride: int, blend: BlendName
) -> None:
    found = scene(50, width)
    found.image_valid[:, 30:40] = False
    assert_same(tmp_path, machine, found, SegmentOptions(stride, blend, block=block))
    by_gpu = both_ways(tmp_path / "a.plan", found, SegmentOptions(stride, blend, block=block))[1]
    whole = both_ways(tmp_path / "a.plan", found, SegmentOptions(stride, blend))[1]
    np.testing.assert_array_equal(by_gpu, whole)


def test_outside_of_an_area_nothing_is_classified(tmp_path: Path, machine: Rig) -> None:
    inside = np.zeros((200, 150), np.bool_)
    inside[70:100, 40:80] = True
    found = replace(scene(200, 150), inside=inside)
    options = SegmentOptions(16, batch=3)
    assert_same(tmp_path, machine, found, options)
    plan = tmp_path / "a.plan"
    by_cpu, by_gpu = both_ways(plan, found, options)
    whole, _ = both_ways(plan, replace(found, inside=None), options)
    np.testing.assert_array_equal(by_gpu, np.where(inside, whole, IGNORE))
    np.testing.assert_array_equal(by_gpu, by_cpu)


def test_a_constant_dsm_and_one_without_a_valid_pixel(tmp_path: Path, machine: Rig) -> None:
    found = scene(50, 60)
    found.dsm[:] = 300
    assert_same(tmp_path, machine, found, SegmentOptions(16))
    found.dsm_valid[:] = False
    assert_same(tmp_path, machine, found, SegmentOptions(16))


def test_a_scene_without_a_valid_pixel(tmp_path: Path, machine: Rig) -> None:
    found = scene(700, 40)
    found.image_valid[:] = False
    assert_same(tmp_path, machine, found, SegmentOptions(32))
    assert machine.trt.called("IExecutionContext.execute_async_v3") == []


def test_windows_without_a_valid_pixel_are_skipped(tmp_path: Path, machine: Rig) -> None:
    found = scene(700, 80)
    found.image_valid[40:600] = False
    found.image_valid[:, 45:] = False
    assert_same(tmp_path, machine, found, SegmentOptions(16))


@pytest.mark.parametrize("batch", [1, 2, 5, 64, "auto", None])
def test_batches(tmp_path: Path, machine: Rig, batch: AskedBatch) -> None:
    assert_same(tmp_path, machine, scene(90, 100), SegmentOptions(8, batch=batch))


def test_the_fastest_batch_is_found_by_the_gpus_clock(tmp_path: Path, machine: Rig) -> None:
    plan = write_rgbd_plan(tmp_path / "a.plan", machine.trt)
    with TensorRtBackend(plan) as backend:
        sizes = BatchSize("auto", backend.batches)
        segment_scene(
            backend, scene(120, 120), lambda rows: None, SegmentOptions(8), lambda done: None, sizes
        )
    assert sizes.timed


def test_fp16_differs_only_where_two_classes_are_that_close(tmp_path: Path, machine: Rig) -> None:
    found = scene(90, 100)
    plan = write_rgbd_plan(tmp_path / "fp16.plan", machine.trt, precision="fp16")
    by_cpu, by_gpu = both_ways(plan, found, SegmentOptions(16))
    low, high = found.dsm[found.dsm_valid].min(), found.dsm[found.dsm_valid].max()
    heights = np.clip((found.dsm - low) / (high - low), 0, 1)[None]
    logits = np.sort(np.concatenate([found.image * np.float32(1 / 255), heights]), axis=0)
    close = logits[-1] - logits[-2] < 1e-3
    np.testing.assert_array_equal(by_gpu[~close], by_cpu[~close])
    assert len(set(by_gpu.ravel())) == CLASSES + 1


@pytest.mark.parametrize("stride", [32, 13])
def test_confidence_comes_down_too(tmp_path: Path, machine: Rig, stride: int) -> None:
    inside = np.zeros((90, 100), np.bool_)
    inside[5:70, 20:] = True
    found = replace(scene(90, 100), inside=inside)
    plan = write_rgbd_plan(tmp_path / "a.plan", machine.trt, change=positional)
    percent, ways = [], get_args(Processor)
    with TensorRtBackend(plan) as backend:
        for where in ways:
            rows: list[FinishedRows] = []
            options = SegmentOptions(stride, preprocess=where, confidence=True)
            segment_scene(backend, found, rows.append, options)
            layers = [part.confidence for part in rows if part.confidence is not None]
            percent.append(np.concatenate(layers).astype(int))
            classes = np.concatenate([part.classes for part in rows])
            np.testing.assert_array_equal(percent[-1] == IGNORE, classes == IGNORE)
    assert np.abs(percent[0] - percent[1]).max() <= 1
    assert len(np.unique(percent[0])) > 10
    machine.check()


@pytest.mark.parametrize(
    "options",
    [SegmentOptions(16, probabilities=True), SegmentOptions(16, protocol=PUBLISHED)],
)
def test_what_is_left_to_the_cpu(tmp_path: Path, machine: Rig, options: SegmentOptions) -> None:
    plan = write_rgbd_plan(tmp_path / "a.plan", machine.trt)
    rows: list[FinishedRows] = []
    with TensorRtBackend(plan) as backend:
        with pytest.raises(UsageError, match="add --preprocess cpu"):
            segment_scene(backend, scene(40, 40), rows.append, options)
        segment_scene(backend, scene(40, 40), rows.append, replace(options, preprocess="cpu"))
    assert (rows[0].probabilities is not None) == options.probabilities


def not_finite(graph: onnx.GraphProto) -> None:
    """Logits become the logarithm of what they were: -infinity for 0."""
    graph.node[0].output[0] = "stack"
    graph.node.append(helper.make_node("Log", ["stack"], ["logits"]))


def test_logits_that_are_not_finite_are_refused(tmp_path: Path, machine: Rig) -> None:
    plan = write_rgbd_plan(tmp_path / "a.plan", machine.trt, change=not_finite)
    rows: list[FinishedRows] = []
    with TensorRtBackend(plan) as backend, pytest.raises(ModelError, match="not finite"):
        segment_scene(backend, scene(90, 100), rows.append, SegmentOptions(16))


def test_many_scenes_with_one_backend(tmp_path: Path, machine: Rig) -> None:
    plan = write_rgbd_plan(tmp_path / "a.plan", machine.trt)
    with TensorRtBackend(plan) as backend:
        held = []
        for size in ((40, 50), (90, 20), (40, 50)):
            rows: list[FinishedRows] = []
            segment_scene(backend, scene(*size), rows.append, SegmentOptions(16))
            assert np.concatenate([part.classes for part in rows]).shape == size
            held.append(machine.cuda.machine.held())
        assert held[0] == held[1] == held[2], "a scene leaves nothing"
        modules = machine.cuda.machine.calls.count("cuModuleLoadDataEx")
        assert modules == 1, "kernels are loaded once"


def test_seconds_in_the_backend_are_the_gpus_own(tmp_path: Path, machine: Rig) -> None:
    plan = write_rgbd_plan(tmp_path / "a.plan", machine.trt)
    with TensorRtBackend(plan) as backend:
        report = segment_scene(backend, scene(90, 100), lambda rows: None, SegmentOptions(16))
    assert 0 < report.backend_s < 1


@pytest.mark.parametrize("cuts", [(0, 37, 90), (0, 1, 64, 90)])
def test_bands_of_rows_are_the_rows_of_the_whole(
    tmp_path: Path, machine: Rig, cuts: tuple[int, ...]
) -> None:
    found = scene(90, 70)
    plan = write_rgbd_plan(tmp_path / "a.plan", machine.trt, change=positional)
    options = SegmentOptions(12, preprocess="gpu", block=40)
    bands = [
        replace(block, band=range(*rows))
        for block in options.grid(90, 70, 32).blocks(40)
        for rows in pairwise(cuts)
    ]
    maps = []
    with TensorRtBackend(plan) as backend:
        for parts in (None, bands):
            rows: list[FinishedRows] = []
            segment_scene(backend, found, rows.append, options, parts=parts)
            maps.append(class_map(rows, 90, 70))
    np.testing.assert_array_equal(maps[1], maps[0])
