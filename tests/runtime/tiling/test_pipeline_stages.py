"""A scene through stages that work at the same time: equal maps, bounds, and every fault."""

from __future__ import annotations

import random
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import RGBD, results_in, write_rgbd_model, write_scene

from mfnet_runtime.backends import backend_from_file
from mfnet_runtime.backends.base import Arrays, Batches, Feed, specs_of
from mfnet_runtime.contract import Contract
from mfnet_runtime.errors import ModelError, ResourceError, SceneError, UsageError
from mfnet_runtime.run.segment import segment_scenes
from mfnet_runtime.scene.normalize import Heights
from mfnet_runtime.scene.reader import SceneData
from mfnet_runtime.tiling.batch_size import CANDIDATES, BatchSize
from mfnet_runtime.tiling.classes import FinishedRows
from mfnet_runtime.tiling.options import AskedBatch
from mfnet_runtime.tiling.pipeline import SceneReport, SegmentOptions, segment_scene

Pause = Callable[[], None]


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    assert [thread for thread in threading.enumerate() if thread.name.startswith("mfnet-")] == []


def never() -> None:
    """No pause."""


@dataclass
class RgbdBackend:
    """Logits are image and DSM stacked; every call writes over the output of the one before."""

    pause: Pause = never
    fits: int = 1000  # windows; more are refused
    calls: list[int] = field(default_factory=list)
    refused: list[int] = field(default_factory=list)
    contract: Contract = field(default_factory=lambda: Contract(32, RGBD))
    name: str = "rgbd"
    device: str = "none"
    precision: str = "fp32"
    threads: int = 1
    batches: Batches = field(default_factory=Batches)

    def __post_init__(self) -> None:
        self.inputs, self.outputs = specs_of(self.contract)
        self._room = np.empty((0, 4, 32, 32), np.float32)
        self.kinds: set[np.dtype[Any]] = set()  # of the inputs so far

    def infer(self, feed: Feed) -> Arrays:
        count = len(feed["image"])
        if count > self.fits:
            self.refused.append(count)
            raise ResourceError(f"{count} windows do not fit")
        self.pause()
        self.calls.append(count)
        self.kinds |= {array.dtype for array in feed.values()}
        if len(self._room) < count:
            self._room = np.empty((count, 4, 32, 32), np.float32)
        logits = self._room[:count]
        np.concatenate([feed["image"], feed["dsm"]], axis=1, out=logits)
        return {"logits": logits}

    def __enter__(self) -> RgbdBackend:
        return self

    def __exit__(self, *raised: object) -> None:
        return None


@dataclass
class NoiseScene:
    """A scene in memory, without end if need be: its rows are made when read."""

    height: int
    width: int
    pause: Pause = never
    read_to: int = 0  # scene row

    def read(self, start: int, stop: int, columns: range | None = None) -> SceneData:
        assert columns is None or len(columns) == self.width
        self.pause()
        self.read_to = stop
        rows = [np.random.default_rng(row).random((4, self.width)) for row in range(start, stop)]
        noise = np.stack(rows, axis=1).astype(np.float32)
        valid = noise[0] > 0.1
        return SceneData(noise[:3] * np.float32(255), noise[3], valid, valid)

    def heights(self) -> Heights:
        return [(np.array([[0, 1]], np.float32), np.ones((1, 2), bool))]


def segmented(
    backend: RgbdBackend, scene: NoiseScene, options: SegmentOptions, pause: Pause = never
) -> tuple[bytes, SceneReport]:
    """Class map and report."""
    rows: list[bytes] = []

    def sink(done: FinishedRows) -> None:
        pause()
        rows.append(done.classes.tobytes())

    report = segment_scene(backend, scene, sink, options)
    return b"".join(rows), report


@pytest.mark.parametrize("stride", [32, 10])
def test_maps_are_equal_bytes_whatever_batch_and_timing(stride: int) -> None:
    luck = random.Random(0)

    def jitter() -> None:
        time.sleep(luck.choice([0.0, 0.0, 0.0, 0.004]))

    plain, _ = segmented(RgbdBackend(), NoiseScene(90, 120), SegmentOptions(stride, batch=1))
    assert len(set(plain)) == 5  # four classes and no data
    tried: tuple[AskedBatch, ...] = (*range(1, 8), "auto", None)
    for batch in tried:
        backend, scene = RgbdBackend(jitter), NoiseScene(90, 120, jitter)
        again, report = segmented(backend, scene, SegmentOptions(stride, batch=batch), jitter)
        assert again == plain
        assert sum(backend.calls) + report.skipped == report.windows
        if batch == "auto":
            assert report.batch in CANDIDATES
        else:
            assert report.batch == (batch or backend.batches.best)
            assert set(backend.calls[:-1]) <= {report.batch}, "only the last may be short"


def test_reading_inference_and_writing_overlap() -> None:
    pause, rows = 0.03, 12

    def rest() -> None:
        time.sleep(pause)

    started = time.perf_counter()
    backend, scene = RgbdBackend(rest), NoiseScene(32 * rows, 32, rest)
    segmented(backend, scene, SegmentOptions(32, batch=1), rest)
    assert time.perf_counter() - started < 2 * pause * rows  # one after the other: 3


def test_the_reader_runs_no_more_than_the_batches_ahead() -> None:
    """A window a row and a window a batch: three batches in memory, one of them being filled."""
    scene, done = NoiseScene(32 * 20, 32), []
    ahead: list[int] = []

    def look() -> None:
        time.sleep(0.01)
        done.append(1)
        ahead.append(scene.read_to // 32 - len(done))

    segmented(RgbdBackend(look), scene, SegmentOptions(32, batch=1))
    assert max(ahead) <= 2


def test_memory_does_not_grow_with_the_scene() -> None:
    peaks = []
    for rows in (8, 64):
        tracemalloc.start()
        segment_scene(
            RgbdBackend(), NoiseScene(32 * rows, 96), lambda rows: None, SegmentOptions(32)
        )
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]


def test_auto_takes_one_batch_for_a_run(tmp_path: Path) -> None:
    """A call costs 2 ms however many windows it has, so the largest batch wins."""
    scenes = [write_scene(tmp_path, name, 96, 96) for name in "ab"]
    backend = RgbdBackend(lambda: time.sleep(0.002))
    outcomes = segment_scenes(backend, scenes, tmp_path / "out", SegmentOptions(8, batch="auto"))
    first, second = (outcome.report for outcome in outcomes)
    assert first is not None
    assert second is not None
    assert first.batch == second.batch == max(CANDIDATES)
    later = backend.calls[-(second.windows // max(CANDIDATES)) :]
    assert set(later) <= {max(CANDIDATES), second.windows % max(CANDIDATES)}, "found only once"
    assert outcomes[1].row["batch"] == max(CANDIDATES)


@pytest.mark.parametrize("batch", ["auto", None])
@pytest.mark.parametrize("fits", [1, 2, 3, 7])
def test_a_batch_not_asked_for_steps_down_to_what_fits(fits: int, batch: AskedBatch) -> None:
    plain, _ = segmented(RgbdBackend(), NoiseScene(96, 128), SegmentOptions(16))
    backend = RgbdBackend(fits=fits)
    again, report = segmented(backend, NoiseScene(96, 128), SegmentOptions(16, batch=batch))
    assert again == plain
    assert max(backend.calls) <= fits
    assert report.batch <= fits
    assert len(backend.refused) == len(set(backend.refused)), "no size is tried in vain twice"


def test_a_batch_asked_for_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ResourceError, match=r"6 windows do not fit.*--batch 6"):
        segmented(RgbdBackend(fits=5), NoiseScene(96, 96), SegmentOptions(16, batch=6))


def test_windows_have_the_number_type_the_model_takes() -> None:
    plain, _ = segmented(RgbdBackend(), NoiseScene(96, 96), SegmentOptions(16))
    half = RgbdBackend()
    half.inputs, half.outputs = specs_of(half.contract, np.float16)
    again, _ = segmented(half, NoiseScene(96, 96), SegmentOptions(16))
    assert half.kinds == {np.dtype(np.float16)}
    assert np.mean(np.frombuffer(plain, np.uint8) == np.frombuffer(again, np.uint8)) > 0.99


def test_preprocessing_on_the_gpu_is_refused_by_a_backend_without_one() -> None:
    with pytest.raises(UsageError, match=r"rgbd on none takes windows from the CPU's memory"):
        segmented(RgbdBackend(), NoiseScene(40, 40), SegmentOptions(preprocess="gpu"))


def test_sizes_of_a_run_may_be_shared() -> None:
    sizes = BatchSize(5)
    backend = RgbdBackend()
    for _ in range(2):
        segment_scene(
            backend, NoiseScene(64, 160), lambda rows: None, SegmentOptions(32), sizes=sizes
        )
    assert set(backend.calls) == {5}


class Interrupted(BaseException):
    """As the SIGTERM of `command`: no Exception."""


@pytest.mark.parametrize("stage", ["read", "infer", "sink", "tick"])
@pytest.mark.parametrize("after", [0, 3])
@pytest.mark.parametrize(
    "fault",
    [SceneError("x"), ModelError("x"), MemoryError("x"), KeyboardInterrupt("x"), Interrupted("x")],
)
def test_a_fault_of_any_stage_is_raised_and_ends_all(
    stage: str, after: int, fault: BaseException
) -> None:
    left = after

    def fails(*_: object) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise fault

    backend = RgbdBackend(fails if stage == "infer" else never)
    scene = NoiseScene(32 * 40, 64, fails if stage == "read" else never)
    sink = fails if stage == "sink" else never_mind
    tick = fails if stage == "tick" else never_mind
    with pytest.raises(type(fault)) as caught:
        segment_scene(backend, scene, sink, SegmentOptions(32, batch=1), tick)
    assert caught.value is fault
    assert len(backend.calls) < 40, "stopped early"


def never_mind(*_: object) -> None:
    """A sink or tick that does nothing."""


@pytest.mark.parametrize("fault", [RuntimeError("x"), KeyboardInterrupt("x")])
def test_a_run_that_fails_leaves_no_file(tmp_path: Path, fault: BaseException) -> None:
    scene = write_scene(tmp_path, height=200, width=200)
    left = 3

    def fails() -> None:
        nonlocal left
        left -= 1
        if not left:
            raise fault

    with pytest.raises(type(fault)):
        segment_scenes(RgbdBackend(fails), [scene], tmp_path / "out", SegmentOptions())
    assert results_in(tmp_path / "out") == []


def test_logits_that_are_not_finite_cost_their_scene_alone(tmp_path: Path) -> None:
    """Overflow in FP16 depends on the pixels."""
    scenes = [write_scene(tmp_path, name) for name in "ab"]
    fails = iter([True])

    def infer() -> None:
        if next(fails, False):
            raise ModelError("logits that are not finite")

    first, second = segment_scenes(RgbdBackend(infer), scenes, tmp_path / "out", SegmentOptions())
    assert first.error == f"{scenes[0].image}: logits that are not finite"
    assert not second.failed
    assert results_in(tmp_path / "out") == ["b.tif", "b.tif.aux.xml"]


def test_a_damaged_raster_is_named_though_another_thread_read_it(tmp_path: Path) -> None:
    scene = write_scene(tmp_path, height=600, width=64)
    data = scene.image.read_bytes()
    scene.image.write_bytes(data[: len(data) * 2 // 3])
    with backend_from_file(write_rgbd_model(tmp_path / "m.onnx")) as backend:
        (outcome,) = segment_scenes(backend, [scene], tmp_path / "out", SegmentOptions())
    assert outcome.error is not None
    assert "damaged or truncated" in outcome.error
    assert results_in(tmp_path / "out") == []


def test_ticks_and_skips_add_up_to_all_windows() -> None:
    ticks: list[int] = []
    report = segment_scene(
        RgbdBackend(), NoiseScene(100, 100), never_mind, SegmentOptions(16), ticks.append
    )
    assert sum(ticks) == report.windows
