"""Stride and blending against time and accuracy: what overlapping the windows costs and brings.

The published protocol steps by 32 px, so that 64 windows of 256 px see each pixel. Each stride
and blending is run as `mfnet-run` runs it, in interleaved rounds, without writing the class map;
the run of median time counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mfnet.data.datasets import Dataset
from mfnet.training.evaluate import Evaluation
from mfnet_bench.accuracy.scoring import (
    ScoringRequest,
    agreement,
    open_model,
    scene_sizes,
    scored_run,
    scored_scenes,
)
from mfnet_bench.latency.machine import machine_facts
from mfnet_runtime.backends import Backend
from mfnet_runtime.console import progress
from mfnet_runtime.errors import SceneError, UsageError
from mfnet_runtime.tiling.grid import WindowGrid
from mfnet_runtime.tiling.options import BLENDS
from mfnet_runtime.tiling.pipeline import SegmentOptions

EIGHTHS = (1, 2, 3, 4, 6, 8)  # of the window: 32, 64, 96, 128, 192 and 256 px of 256

Setting = tuple[int, str]  # stride in pixels, blending
Sizes = Sequence[tuple[int, int]]  # (rows, columns) of each scene


@dataclass(frozen=True, kw_only=True)
class SweepRequest(ScoringRequest):
    """What to sweep over what."""

    model: Path
    strides: str | None = None  # pixels: "64,128"; None: eighths of the window
    blends: str = ",".join(BLENDS)
    backend: str = "auto"
    rounds: int = 1  # each stride and blending is run so often

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rounds < 1:
            raise UsageError(f"--rounds is {self.rounds}; expected at least 1")

    def settings(self, window: int) -> list[Setting]:
        """Every stride with every blending, the smallest stride first.

        Raises:
            UsageError: strides that are not in 1..window, or a blending nobody knows.
        """
        settings = [
            (stride, blend)
            for stride in self._strides(window)
            for blend in dict.fromkeys(part.strip() for part in self.blends.split(","))
        ]
        for setting in settings:  # refused before anything runs
            _options(setting, self.batch).grid(window, window, window)
        return settings

    def _strides(self, window: int) -> list[int]:
        if self.strides is None:
            return [window * part // 8 for part in EIGHTHS]
        try:
            return sorted({int(part) for part in self.strides.split(",")})
        except ValueError:
            raise UsageError(
                f"--strides {self.strides!r}: expected whole numbers of pixels, for example 64,128"
            ) from None


@dataclass(frozen=True)
class SweepRow:
    """One stride and blending; the last three are against the sweep's reference."""

    stride: int  # pixels
    blend: str
    windows: int
    windows_a_pixel: float  # how many windows see a pixel, on average
    seconds: float  # of all scenes: reading, inference, blending; median of the rounds
    backend_s: float  # seconds of that run inside the backend
    mpx_per_s: float  # million pixels of scene a second
    mean_iou: float
    mean_f1: float
    oa: float  # overall accuracy
    iou_change: float  # of mean_iou, in points of 100
    agreement: float  # share of pixels with the same class
    speed_up: float  # the reference's seconds / these


@dataclass(frozen=True)
class Sweep:
    """All rows, and what they were measured with."""

    model: str
    backend: str
    device: str
    window: int  # pixels
    batch: int  # windows a call
    threads: int | None  # None: the backend's own
    rounds: int
    scenes: tuple[str, ...]
    pixels: int  # of all scenes
    classes: tuple[str, ...]
    counted: tuple[int, ...]  # classes that the means are taken over
    published: Setting  # the paper's
    reference: Setting  # that rows are compared with: the published one, if it is among them
    default: Setting  # of mfnet-run
    machine: dict[str, Any]
    rows: tuple[SweepRow, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)


def swept(request: SweepRequest) -> Sweep:
    """Run every stride and blending over every scene.

    Raises:
        UsageError: strides, blendings, scenes or labels that are missing or make no sense.
        ModelError: the model cannot be loaded.
        SceneError: a scene is damaged or does not fit, or the labels hold no counted class.
    """
    with open_model(request.model, request.threads, request.backend) as backend:
        contract = backend.contract
        settings = request.settings(contract.window)
        counted = request.counted(contract.classes) or tuple(range(len(contract.classes)))
        dataset = request.open_dataset(contract)
        sizes = scene_sizes(dataset, contract)
        published = (min(dataset.test_stride, contract.window), "uniform")
        reference = published if published in settings else settings[0]
        rows = _rows(request, backend, dataset, sizes, settings, reference, counted)
        defaults = SegmentOptions()
        default_grid = defaults.grid(contract.window, contract.window, contract.window)
        return Sweep(
            model=request.model.name,
            backend=backend.name,
            device=backend.device,
            window=contract.window,
            batch=request.batch,
            threads=request.threads,
            rounds=request.rounds,
            scenes=tuple(scene.name for scene in scored_scenes(dataset)),
            pixels=sum(height * width for height, width in sizes),
            classes=contract.classes.names,
            counted=counted,
            published=published,
            reference=reference,
            default=(default_grid.stride, defaults.sum),
            machine=machine_facts(),
            rows=rows,
        )


def _rows(
    request: SweepRequest,
    backend: Backend,
    dataset: Dataset,
    sizes: Sizes,
    settings: Sequence[Setting],
    reference: Setting,
    counted: tuple[int, ...],
) -> tuple[SweepRow, ...]:
    """A row a setting, in their order."""
    warm_up = settings[-1]  # the coarsest: engines are slow at first, and labels may be empty
    # The reference comes before the others, which are compared with its class maps.
    order = [reference, *(setting for setting in settings if setting != reference)]
    window = backend.contract.window
    grids = {s: [WindowGrid(*size, window, s[0]) for size in sizes] for s in settings}
    runs: dict[Setting, list[Evaluation]] = {setting: [] for setting in settings}
    same: dict[Setting, float] = {}
    to_run = [warm_up, *order * request.rounds]
    with progress(sum(len(grid) for s in to_run for grid in grids[s]), request.model.name) as tick:
        first, _ = scored_run(backend, dataset, _options(warm_up, request.batch), tick)
        _check_labelled(first, counted, request.scenes)
        for setting in order * request.rounds:
            result, maps = scored_run(backend, dataset, _options(setting, request.batch), tick)
            if not same:
                reference_maps = maps
            if setting not in same:
                same[setting] = agreement(reference_maps, maps)
            runs[setting].append(result)
    middle = {setting: _median_run(results) for setting, results in runs.items()}
    return tuple(
        _row(setting, middle[setting], grids[setting], counted, same[setting], middle[reference])
        for setting in settings
    )


def _median_run(runs: Sequence[Evaluation]) -> Evaluation:
    """The run of median time, the faster of two; their scores are all the same."""
    return sorted(runs, key=lambda run: run.total_s)[(len(runs) - 1) // 2]


def _options(setting: Setting, batch: int) -> SegmentOptions:
    stride, blend = setting
    checked: Any = blend  # SegmentOptions refuses what it does not know
    return SegmentOptions(stride, checked, batch)


def _seen_pixels(grid: WindowGrid) -> int:
    """Pixels of all windows, without padding: an overlapped pixel counts once a window."""
    rows = sum(min(grid.window, grid.height - offset.start) for offset in grid.rows)
    return rows * sum(min(grid.window, grid.width - offset.start) for offset in grid.columns)


def _check_labelled(result: Evaluation, counted: tuple[int, ...], scenes: Path) -> None:
    truth = result.matrix.counts.sum(1)
    if not np.any(truth[list(counted)]):
        raise SceneError(
            f"{scenes}: no pixel of the labels has a class that the mean is taken over "
            f"({', '.join(map(str, counted))}); check label/ and --mean-over"
        )


def _row(
    setting: Setting,
    result: Evaluation,
    grids: Sequence[WindowGrid],
    counted: tuple[int, ...],
    same: float,
    reference: Evaluation,
) -> SweepRow:
    scores = result.matrix.scores(counted)
    pixels = sum(grid.height * grid.width for grid in grids)
    return SweepRow(
        stride=setting[0],
        blend=setting[1],
        windows=result.windows,
        windows_a_pixel=sum(map(_seen_pixels, grids)) / pixels,
        seconds=result.total_s,
        backend_s=result.backend_s,
        mpx_per_s=pixels / 1e6 / result.total_s,
        mean_iou=scores.mean_iou,
        mean_f1=scores.mean_f1,
        oa=scores.oa,
        iou_change=100 * (scores.mean_iou - reference.matrix.scores(counted).mean_iou),
        agreement=same,
        speed_up=reference.total_s / result.total_s,
    )
