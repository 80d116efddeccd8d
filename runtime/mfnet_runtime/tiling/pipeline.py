"""One scene from pixels to class map: read, scale, infer, blend, argmax, write.

`segment_scene` is the whole of it; it knows neither which backend runs nor what a network is.
A wide scene is worked in blocks of columns, so that memory does not depend on its size.
Reading and writing go on in threads of their own while the backend works.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from mfnet_runtime.backends.base import Backend, DeviceBackend
from mfnet_runtime.contract import DsmRule
from mfnet_runtime.errors import UsageError
from mfnet_runtime.scene.normalize import DsmRange, dsm_range
from mfnet_runtime.tiling.batch_size import Asked, BatchSize
from mfnet_runtime.tiling.batches import Batch, scene_batches
from mfnet_runtime.tiling.batches import RowSource as RowSource
from mfnet_runtime.tiling.cpu import HostProcessing
from mfnet_runtime.tiling.grid import BLENDS, DEFAULT_BLEND, WindowGrid
from mfnet_runtime.tiling.memory import return_freed
from mfnet_runtime.tiling.prefetch import Stages
from mfnet_runtime.tiling.processing import Processing
from mfnet_runtime.tiling.published import PUBLISHED, SumName
from mfnet_runtime.tiling.rows import CLASSES_ALONE, FinishedRows, Layers

Sink = Callable[[FinishedRows], None]  # takes finished rows of a block from the top
Tick = Callable[[int], None]  # told how many windows were just done

PREPROCESS = ("gpu", "cpu")
Where = Literal["gpu", "cpu"]


@dataclass(frozen=True)
class SegmentOptions:
    """How to walk over a scene."""

    stride: int | None = None  # pixels between windows; None: half a window
    blend: SumName = DEFAULT_BLEND
    batch: Asked = None  # windows a call; None: the backend's best; auto: the fastest, by timing
    preprocess: Where | None = None  # where windows are cut and blended; None: with the network
    dsm: DsmRule | None = None  # how heights become network input; None: as the contract says
    layers: Layers = CLASSES_ALONE  # what is made besides classes
    block: int | None = None  # columns worked on at a time, from top to bottom; None: all
    max_memory: int | None = None  # bytes for pixels, where `run` chooses the block; None: some

    def __post_init__(self) -> None:
        if self.blend not in (*BLENDS, PUBLISHED):
            raise UsageError(f"no blending named {self.blend!r}; there are {', '.join(BLENDS)}")
        if isinstance(self.batch, int) and self.batch < 1:
            raise UsageError(f"batch is {self.batch}; expected at least 1")
        if self.block is not None and self.block < 1:
            raise UsageError(f"block is {self.block} columns; expected at least 1")
        if self.preprocess not in (None, *PREPROCESS):
            raise UsageError(
                f"no preprocessing on {self.preprocess!r}; there are {', '.join(PREPROCESS)}"
            )

    def grid(self, height: int, width: int, window: int) -> WindowGrid:
        """The windows of a scene of that size."""
        stride = window // 2 if self.stride is None else self.stride
        return WindowGrid(height, width, window, stride)

    def blocks(self, grid: WindowGrid) -> list[WindowGrid]:
        """The blocks of columns that a scene is worked in, from the left."""
        return grid.blocks(self.block or grid.width)


@dataclass
class SceneReport:
    """What happened to one scene."""

    dsm: DsmRange
    windows: int  # of all blocks: those on a border of two count in both
    blocks: int = 1
    skipped: int = 0  # windows without one valid pixel, never inferred
    batch: int = 0  # windows a call of the backend; the one chosen where it was to be found
    backend_s: float = 0.0  # seconds inside the backend
    total_s: float = 0.0  # seconds in all, reading and writing included


def segment_scene(
    backend: Backend,
    reader: RowSource,
    sink: Sink,
    options: SegmentOptions,
    tick: Tick = lambda done: None,
    sizes: BatchSize | None = None,
    parts: Sequence[WindowGrid] | None = None,
    span: DsmRange | None = None,
) -> SceneReport:
    """Segment one open scene, or parts of it.

    Cutting, weights and the order of additions are the same whatever the blocks, the batch and the
    timing of threads. So the map is the same, bit by bit, whatever the split, where the backend's
    logits of a window do not depend on the other windows of the call. No engine promises that, by
    measurement it holds on CPUs for our networks (benchmarks/TRIED.md). Batches of one window need
    no such promise: all calls are of one shape, with the window at the same place.

    Args:
        backend: Entered; called in the caller's thread alone.
        reader: The open scene; `read` is called in a second thread.
        sink: Takes rows of classes and the layers asked for, 255 where image or DSM has no data
            or outside of the areas asked for; one block of columns after the other from the left,
            each from its top to its bottom; called in a third thread.
        options: Stride, blending, batch, where pixels are worked on.
        tick: Called with the number of windows just inferred or skipped.
        sizes: The batch of a run of many scenes; by default made from the options.
        parts: Blocks of columns, or bands of rows of them, to make instead of the whole scene.
        span: The scene's heights that become 0 and 1, where they are known already.

    Returns:
        The report.

    Raises:
        SceneError: a raster is damaged.
        ModelError: the model gave NaN or infinity.
        ResourceError: the backend has not the memory for the batch.
        UsageError: the stride is larger than the window, or the batch than the backend takes; or
            the backend does not take windows from where they are to be made.
    """
    started = time.perf_counter()
    contract = backend.contract
    grid = options.grid(reader.height, reader.width, contract.window)
    blocks = options.blocks(grid) if parts is None else parts
    span = span or dsm_range(options.dsm or contract.dsm, reader.heights)
    report = SceneReport(span, sum(len(block) for block in blocks), len(blocks))
    sizes = sizes or BatchSize(options.batch, backend.batches)
    processing = _processing(preprocessed_on(backend, options))
    for block in blocks:
        part = partial(
            processing, backend, reader, block, span, options.blend, sizes, options.layers
        )
        _segment_block(part, sink, report, sizes, tick)
        return_freed(len(block.made) * len(block.made_rows))
    report.batch = sizes.chosen
    report.total_s = time.perf_counter() - started
    return report


def _segment_block(
    processing: Callable[[], Processing[Any]],
    sink: Sink,
    report: SceneReport,
    sizes: BatchSize,
    tick: Tick,
) -> None:
    """A block of columns from its top to its bottom; nothing of it is held any more afterwards."""
    with processing() as part:
        fill = partial(scene_batches, part.rows, sizes, max_strips=part.max_strips)
        drain = partial(_drain, part, sink)
        with Stages(part.batches, fill, drain) as stages:
            for batch, seconds in part.inferred(stages):
                report.backend_s += seconds
                report.skipped += batch.skipped
                done = batch.windows + batch.skipped
                stages.put(batch)
                tick(done)


def preprocessed_on(backend: Backend, options: SegmentOptions) -> Where:
    """Where windows are cut and logits are blended: as asked, or where the network runs.

    Raises:
        UsageError: on a GPU, and the backend takes no windows from there, or a layer or sum is
            not made there.
    """
    able = isinstance(backend, DeviceBackend)
    if options.preprocess == "gpu" and not able:
        raise UsageError(
            f"{backend.name} on {backend.device} takes windows from the CPU's memory; "
            "leave out --preprocess gpu, or run a plan"
        )
    where = options.preprocess or ("gpu" if able else "cpu")
    if where == "gpu" and options.layers.probabilities:
        raise UsageError("--probabilities are not made on a GPU; add --preprocess cpu")
    if where == "gpu" and options.blend == PUBLISHED:
        raise UsageError("--protocol published is not summed on a GPU; add --preprocess cpu")
    return where


def _processing(where: Where) -> Callable[..., Processing[Any]]:
    if where == "cpu":
        return HostProcessing
    from mfnet_runtime.tiling.gpu import DeviceProcessing  # only where there is CUDA

    return DeviceProcessing


def _drain(part: Processing[Any], sink: Sink, batch: Batch) -> None:
    """Hand down the rows that a batch finishes."""
    made = part.rows.grid.made_rows
    for rows in part.finished(batch):
        wanted = rows.within(made)
        if len(wanted.classes):
            sink(wanted)
