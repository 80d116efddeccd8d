"""One scene from pixels to class map: read, scale, infer, blend, argmax, write.

`segment_scene` is the whole of it; it knows neither which backend runs nor what a network is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from mfnet_runtime.backends.base import Backend
from mfnet_runtime.blend import LogitMosaic
from mfnet_runtime.contract import Contract
from mfnet_runtime.errors import ModelError, UsageError
from mfnet_runtime.labels import IGNORE
from mfnet_runtime.raster import SceneRows
from mfnet_runtime.scaling import (
    BoolArray,
    DsmRange,
    FloatArray,
    Heights,
    dsm_range,
    padded,
    scaled_dsm,
    scaled_image,
)
from mfnet_runtime.windows import BLENDS, BlendName, Offset, WindowGrid

ClassRows = npt.NDArray[np.uint8]
Sink = Callable[[ClassRows], None]  # takes finished rows from the top
Tick = Callable[[int], None]  # told how many windows were just done


class RowSource(Protocol):
    """A scene that gives its rows: `raster.SceneReader`, or one held in memory."""

    @property
    def height(self) -> int:
        """Rows of the scene."""
        ...

    @property
    def width(self) -> int:
        """Columns of the scene."""
        ...

    def read(self, start: int, stop: int) -> SceneRows:
        """Rows from `start` up to `stop`."""
        ...

    def heights(self) -> Heights:
        """The whole DSM, in pieces, for its statistics."""
        ...


@dataclass(frozen=True)
class SegmentOptions:
    """How to walk over a scene."""

    stride: int | None = None  # pixels between windows; None: half a window
    blend: BlendName = "hann"
    batch: int = 4  # windows a call of the backend

    def __post_init__(self) -> None:
        if self.blend not in BLENDS:
            raise UsageError(f"no blending named {self.blend!r}; there are {', '.join(BLENDS)}")
        if self.batch < 1:
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
    backend_s: float = 0.0  # seconds inside the backend
    total_s: float = 0.0  # seconds in all, reading and writing included
    pixels: list[int] = field(default_factory=list)  # pixels of each class
    nodata: int = 0  # pixels


@dataclass(frozen=True)
class ScaledRows:
    """Scaled rows of a scene, at least as wide as a window."""

    image: FloatArray  # (3, row, column) in [0, 1]
    dsm: FloatArray  # (1, row, column) in [0, 1]
    valid: BoolArray  # (row, column): image and DSM both valid; not padded


def segment_scene(
    backend: Backend,
    reader: RowSource,
    sink: Sink,
    options: SegmentOptions,
    tick: Tick = lambda done: None,
) -> SceneReport:
    """Segment one open scene.

    Args:
        backend: Entered.
        reader: The open scene.
        sink: Takes uint8 class rows, 255 where image or DSM has no data, top to bottom.
        options: Stride, blending, batch.
        tick: Called with the number of windows just finished.

    Returns:
        The report.

    Raises:
        SceneError: a raster is damaged.
        ModelError: the model gave NaN or infinity.
        UsageError: the stride is larger than the window.
    """
    started = time.perf_counter()
    contract = backend.contract
    grid = options.grid(reader.height, reader.width, contract.window)
    span = dsm_range(contract.dsm, reader.heights)
    report = SceneReport(span, len(grid), pixels=[0] * len(contract.classes))
    mosaic = LogitMosaic(grid, len(contract.classes), options.blend)
    for row, following, rows in _window_rows(reader, contract, span, grid):
        for columns in _batches(grid.columns, options.batch):
            seen = [column for column in columns if _any_valid(rows, column, grid.window)]
            report.skipped += len(columns) - len(seen)
            if seen:
                logits = _inferred(backend, rows, seen, grid.window, report)
                for column, window_logits in zip(seen, logits, strict=True):
                    mosaic.add(row, column, window_logits)
            tick(len(columns))
        done = following - row.start
        classes = _classes(mosaic.finish_above(following), rows.valid[:done])
        _count(report, classes)
        sink(classes)
    report.total_s = time.perf_counter() - started
    return report


def _window_rows(
    reader: RowSource, contract: Contract, span: DsmRange, grid: WindowGrid
) -> Iterator[tuple[Offset, int, ScaledRows]]:
    """Each row of windows with the scaled pixels under it and where the next row starts.

    Rows shared with the row of windows above are kept, not read again.
    """
    kept: ScaledRows | None = None
    kept_start = 0
    starts = [offset.start for offset in grid.rows[1:]] + [grid.height]
    for row, following in zip(grid.rows, starts, strict=True):
        stop = min(row.start + grid.window, grid.height)
        if kept is None:
            rows = _scaled_rows(reader, contract, span, row.start, stop)
        else:
            known = kept_start + kept.valid.shape[0]
            fresh = _scaled_rows(reader, contract, span, known, stop)
            rows = _joined(kept, row.start - kept_start, fresh)
        yield row, following, rows
        kept, kept_start = rows, row.start


def _scaled_rows(
    reader: RowSource, contract: Contract, span: DsmRange, start: int, stop: int
) -> ScaledRows:
    rows = reader.read(start, stop)
    image = scaled_image(rows.image, rows.image_valid, contract.image)
    dsm = scaled_dsm(rows.dsm, rows.dsm_valid, span)[None]
    return ScaledRows(image, dsm, rows.image_valid & rows.dsm_valid)


def _joined(upper: ScaledRows, drop: int, lower: ScaledRows) -> ScaledRows:
    """`upper` without its first `drop` rows, and `lower` below it."""
    return ScaledRows(
        np.concatenate([upper.image[:, drop:], lower.image], axis=1),
        np.concatenate([upper.dsm[:, drop:], lower.dsm], axis=1),
        np.concatenate([upper.valid[drop:], lower.valid]),
    )


def _batches(columns: tuple[Offset, ...], size: int) -> Iterator[tuple[Offset, ...]]:
    return (columns[first : first + size] for first in range(0, len(columns), size))


def _any_valid(rows: ScaledRows, column: Offset, window: int) -> bool:
    return bool(rows.valid[:, column.start : column.start + window].any())


def _inferred(
    backend: Backend, rows: ScaledRows, columns: list[Offset], window: int, report: SceneReport
) -> FloatArray:
    """Logits (N, classes, window, window) of the windows at `columns`."""
    cuts = [slice(column.start, column.start + window) for column in columns]
    feed = {
        "image": np.stack([padded(rows.image[:, :, cut], window) for cut in cuts]),
        "dsm": np.stack([padded(rows.dsm[:, :, cut], window) for cut in cuts]),
    }
    started = time.perf_counter()
    logits: FloatArray = backend.infer(feed)["logits"]
    report.backend_s += time.perf_counter() - started
    return logits


def _classes(logits: FloatArray, valid: BoolArray) -> ClassRows:
    """Class of the largest logit, (row, column) uint8; nodata where not valid."""
    if not np.isfinite(logits).all():  # argmax would call a NaN class 0
        raise ModelError("the model gave logits that are not finite; check it with mfnet-inspect")
    return np.where(valid, logits.argmax(axis=0).astype(np.uint8), np.uint8(IGNORE))


def _count(report: SceneReport, classes: ClassRows) -> None:
    counts = np.bincount(classes.ravel(), minlength=256)
    report.nodata += int(counts[IGNORE])
    for index in range(len(report.pixels)):
        report.pixels[index] += int(counts[index])
