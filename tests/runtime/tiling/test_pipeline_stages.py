"""Reading, inference and writing at the same time: equal maps, bounds, and failures."""

from __future__ import annotations

import random
import threading
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from memory_scene import MemoryScene, noise_scene
from support import RGBD, results_in, write_scene

from mfnet_runtime.backends.base import Arrays, Batches, Feed, specs_of
from mfnet_runtime.contract import Contract
from mfnet_runtime.errors import ResourceError, SceneError, UsageError
from mfnet_runtime.run.segment import segment_scenes
from mfnet_runtime.scene.reader import SceneData
from mfnet_runtime.tiling.batch_size import CANDIDATES
from mfnet_runtime.tiling.classes import FinishedRows
from mfnet_runtime.tiling.options import AskedBatch
from mfnet_runtime.tiling.pipeline import SceneReport, SegmentOptions, segment_scene

Pause = Callable[[], None]


pytestmark = pytest.mark.usefixtures("_no_thread_is_left")


def never() -> None:
    """No pause."""


def never_mind(*_: object) -> None:
    """A sink or tick that does nothing."""


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


@dataclass(frozen=True)
class SlowScene(MemoryScene):
    """A scene that pauses before each read."""

    pause: Pause = never

    def read(self, start: int, stop: int, columns: range | None = None) -> SceneData:
        self.pause()
        return super().read(start, stop, columns)


def scene_of(height: int, width: int, pause: Pause = never) -> MemoryScene:
    return SlowScene(**vars(noise_scene(height, width)), pause=pause)


def segmented(
    backend: RgbdBackend, scene: MemoryScene, options: SegmentOptions, pause: Pause = never
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

    plain, _ = segmented(RgbdBackend(), scene_of(90, 120), SegmentOptions(stride, batch=1))
    assert len(set(plain)) == 5  # four classes and no data
    tried: tuple[AskedBatch, ...] = (*range(1, 8), "auto", None)
    for batch in tried:
        backend, scene = RgbdBackend(jitter), scene_of(90, 120, jitter)
        again, report = segmented(backend, scene, SegmentOptions(stride, batch=batch), jitter)
        assert again == plain
        assert sum(backend.calls) + report.skipped == report.windows
        if batch == "auto":
            assert report.batch in CANDIDATES
        else:
            assert report.batch == (batch or backend.batches.best)
            assert set(backend.calls[:-1]) <= {report.batch}, "only the last may be short"


def test_reading_inference_and_writing_overlap() -> None:
    at_once: list[int] = []
    lock, busy = threading.Lock(), 0

    def work() -> None:
        nonlocal busy
        with lock:
            busy += 1
            at_once.append(busy)
        time.sleep(0.02)
        with lock:
            busy -= 1

    segmented(RgbdBackend(work), scene_of(32 * 12, 32, work), SegmentOptions(32, batch=1), work)
    assert max(at_once) == 3


def test_memory_does_not_grow_with_the_scene() -> None:
    peaks = []
    for rows in (8, 64):
        scene = scene_of(32 * rows, 96)
        tracemalloc.start()
        segment_scene(RgbdBackend(), scene, never_mind, SegmentOptions(32))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]


def test_auto_takes_one_batch_for_a_run(tmp_path: Path) -> None:
    """A call costs 10 ms however many windows it has, so the largest batch wins."""
    scenes = [write_scene(tmp_path, name, 96, 96) for name in "ab"]
    backend = RgbdBackend(lambda: time.sleep(0.01))
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
    plain, _ = segmented(RgbdBackend(), scene_of(96, 128), SegmentOptions(16))
    backend = RgbdBackend(fits=fits)
    again, report = segmented(backend, scene_of(96, 128), SegmentOptions(16, batch=batch))
    assert again == plain
    assert max(backend.calls) <= fits
    assert report.batch <= fits
    assert len(backend.refused) == len(set(backend.refused)), "no size is tried in vain twice"


def test_a_batch_asked_for_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ResourceError, match=r"6 windows do not fit.*--batch 6"):
        segmented(RgbdBackend(fits=5), scene_of(96, 96), SegmentOptions(16, batch=6))


def test_windows_have_the_number_type_the_model_takes() -> None:
    plain, _ = segmented(RgbdBackend(), scene_of(96, 96), SegmentOptions(16))
    half = RgbdBackend()
    half.inputs, half.outputs = specs_of(replace(half.contract, precision="fp16"))
    again, _ = segmented(half, scene_of(96, 96), SegmentOptions(16))
    assert half.kinds == {np.dtype(np.float16)}
    assert np.mean(np.frombuffer(plain, np.uint8) == np.frombuffer(again, np.uint8)) > 0.99


def test_preprocessing_on_the_gpu_is_refused_by_a_backend_without_one() -> None:
    with pytest.raises(UsageError, match=r"rgbd on none takes windows from the CPU's memory"):
        segmented(RgbdBackend(), scene_of(40, 40), SegmentOptions(preprocess="gpu"))


@pytest.mark.parametrize("stage", ["read", "infer", "sink", "tick"])
@pytest.mark.parametrize("fault", [SceneError("x"), MemoryError("x"), KeyboardInterrupt("x")])
def test_a_fault_of_any_stage_is_raised_and_ends_all(stage: str, fault: BaseException) -> None:
    left = 3

    def fails(*_: object) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise fault

    backend = RgbdBackend(fails if stage == "infer" else never)
    scene = scene_of(32 * 40, 64, fails if stage == "read" else never)
    sink = fails if stage == "sink" else never_mind
    tick = fails if stage == "tick" else never_mind
    with pytest.raises(type(fault)) as caught:
        segment_scene(backend, scene, sink, SegmentOptions(32, batch=1), tick)
    assert caught.value is fault
    assert len(backend.calls) < 40, "stopped early"


def test_logits_that_are_not_finite_fail_their_scene_alone(tmp_path: Path) -> None:
    """Overflow in FP16 depends on the pixels."""
    scenes = [write_scene(tmp_path, name) for name in "ab"]

    class OverflowOnce(RgbdBackend):
        def infer(self, feed: Feed) -> Arrays:
            found = super().infer(feed)
            if len(self.calls) == 1:
                found["logits"][0, 1, 2, 3] = np.inf
            return found

    first, second = segment_scenes(OverflowOnce(), scenes, tmp_path / "out", SegmentOptions())
    assert first.error is not None
    assert first.error.startswith(f"{scenes[0].image}: ")
    assert "not finite" in first.error
    assert not second.failed
    assert results_in(tmp_path / "out") == ["b.qml", "b.tif", "b.tif.aux.xml"]


def test_ticks_and_skips_add_up_to_all_windows() -> None:
    ticks: list[int] = []
    report = segment_scene(
        RgbdBackend(), scene_of(100, 100), never_mind, SegmentOptions(16), ticks.append
    )
    assert sum(ticks) == report.windows
