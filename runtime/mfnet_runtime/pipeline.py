"""One scene from pixels to class map: read, scale, infer, blend, argmax, write.

`segment_scene` is the whole of it; it knows neither which backend runs nor what a network is.
Reading and writing go on in threads of their own while the backend works.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from mfnet_runtime.backends.base import Backend
from mfnet_runtime.batch_size import BatchSize
from mfnet_runtime.blend import ClassRows, LogitMosaic, classes_from_logits
from mfnet_runtime.errors import ResourceError, UsageError
from mfnet_runtime.labels import IGNORE
from mfnet_runtime.scaling import DsmRange, dsm_range
from mfnet_runtime.scene_batches import Batch, Place, scene_batches
from mfnet_runtime.scene_batches import RowSource as RowSource
from mfnet_runtime.stages import Stages
from mfnet_runtime.windows import BLENDS, BlendName, WindowGrid

Sink = Callable[[ClassRows], None]  # takes finished rows from the top
Tick = Callable[[int], None]  # told how many windows were just done

BATCHES = 3  # in memory: one being filled, one inferred, one blended


@dataclass(frozen=True)
class SegmentOptions:
    """How to walk over a scene."""

    stride: int | None = None  # pixels between windows; None: half a window
    blend: BlendName = "hann"
    batch: int | None = 4  # windows a call of the backend; None: the fastest, found by timing

    def __post_init__(self) -> None:
        if self.blend not in BLENDS:
            raise UsageError(f"no blending named {self.blend!r}; there are {', '.join(BLENDS)}")
        if self.batch is not None and self.batch < 1:
            raise UsageError(f"batch is {self.batch}; expected at least 1")

    def grid(self, height: int, width: int, window: int) -> WindowGrid:
        """The windows of a scene of that size."""
        stride = window // 2 if self.stride is None else self.stride
        return WindowGrid(height, width, window, stride)


@dataclass
class SceneReport:
    """What happened to one scene."""

    dsm: DsmRange
    windows: int  # in the grid
    skipped: int = 0  # windows without one valid pixel, never inferred
    batch: int = 0  # windows a call of the backend; the one chosen where it was to be found
    backend_s: float = 0.0  # seconds inside the backend
    total_s: float = 0.0  # seconds in all, reading and writing included
    pixels: list[int] = field(default_factory=list)  # pixels of each class
    nodata: int = 0  # pixels


def segment_scene(
    backend: Backend,
    reader: RowSource,
    sink: Sink,
    options: SegmentOptions,
    tick: Tick = lambda done: None,
    sizes: BatchSize | None = None,
) -> SceneReport:
    """Segment one open scene.

    Cutting, weights and the order of additions are the same whatever the batch and the timing of
    threads. So the class map depends on the batch only where the backend's logits of a window do:
    by rounding (3e-6 of a range of 14 with ONNX Runtime, nothing with OpenVINO), which can change
    a pixel only where two classes are that close.

    Args:
        backend: Entered; called in the caller's thread alone.
        reader: The open scene; `read` is called in a second thread.
        sink: Takes uint8 class rows, 255 where image or DSM has no data, top to bottom; called in
            a third thread.
        options: Stride, blending, batch.
        tick: Called with the number of windows just inferred or skipped.
        sizes: The batch of a run of many scenes; by default made from the options.

    Returns:
        The report.

    Raises:
        SceneError: a raster is damaged.
        ModelError: the model gave NaN or infinity.
        ResourceError: the backend has not the memory for the batch.
        UsageError: the stride is larger than the window.
    """
    started = time.perf_counter()
    contract = backend.contract
    grid = options.grid(reader.height, reader.width, contract.window)
    span = dsm_range(contract.dsm, reader.heights)
    report = SceneReport(span, len(grid), pixels=[0] * len(contract.classes))
    sizes = sizes or BatchSize(options.batch)
    room = min(sizes.largest, len(grid))
    batches = [Batch.allocated(room, contract) for _ in range(BATCHES)]
    fill = partial(scene_batches, reader, contract, span, grid, sizes)
    mosaic = LogitMosaic(grid, len(contract.classes), options.blend)
    with Stages(batches, fill, partial(_drain, mosaic, sink, report)) as stages:
        for batch in stages:
            report.backend_s += _infer(backend, batch, sizes)
            report.skipped += batch.skipped
            done = batch.windows + batch.skipped
            stages.put(batch)
            tick(done)
    report.batch = sizes.chosen
    report.total_s = time.perf_counter() - started
    return report


def _infer(backend: Backend, batch: Batch, sizes: BatchSize) -> float:
    """Fill in the logits; in smaller calls if the backend refuses. Returns seconds."""
    # filled before a smaller limit was known, a batch may be above it
    seconds, done, call = 0.0, 0, min(batch.windows, sizes.largest)
    while done < batch.windows:
        part = slice(done, min(done + call, batch.windows))
        feed = {"image": batch.image[part], "dsm": batch.dsm[part]}
        started = time.perf_counter()
        try:
            logits = backend.infer(feed)["logits"]
        except ResourceError as fault:
            call = sizes.smaller(part.stop - done, fault)
            continue
        took = time.perf_counter() - started
        sizes.took(part.stop - done, took)
        batch.logits[part] = logits  # the backend's own array lives until its next call only
        seconds, done = seconds + took, part.stop
    return seconds


def _drain(mosaic: LogitMosaic, sink: Sink, report: SceneReport, batch: Batch) -> None:
    """Blend the windows of a batch and hand down the rows they finish."""
    logits = iter(batch.logits)
    for step in batch.steps:
        if isinstance(step, Place):
            mosaic.add(step.row, step.column, next(logits))
        else:
            classes = classes_from_logits(mosaic.finish_above(step.stop), step.valid)
            _count(report, classes)
            sink(classes)


def _count(report: SceneReport, classes: ClassRows) -> None:
    report.nodata += int(np.count_nonzero(classes == IGNORE))
    for index in range(len(report.pixels)):
        report.pixels[index] += int(np.count_nonzero(classes == index))
