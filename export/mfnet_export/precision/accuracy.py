"""How far an INT8 or FP16 graph is from its FP32 graph: on windows, and on labelled scenes.

Knows backends and scenes, not what was done to the graph.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mfnet.data.datasets import dataset_from_folder
from mfnet.data.scenes import open_labelled_scenes
from mfnet.training.evaluate import evaluate
from mfnet_export.errors import ExportError
from mfnet_export.validation.parity import share_text
from mfnet_export.validation.sample_windows import Windows
from mfnet_runtime.backends.base import Backend
from mfnet_runtime.errors import UsageError
from mfnet_runtime.tiling.pipeline import SegmentOptions

Logits = npt.NDArray[np.float32]
NO_LABELS = "mIoU        not measured: no label/ there"


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """How far a graph may be from its FP32 graph."""

    max_drop: float = 0.5  # points of mIoU, 0..100, where scenes have labels
    max_disagree: float = 1.0  # percent of the pixels

    def __post_init__(self) -> None:
        for name, value in (("max-drop", self.max_drop), ("max-disagree", self.max_disagree)):
            if not 0 <= value <= 100:
                raise UsageError(f"--{name} {value:g}: expected 0 to 100")


def bounds_from_flags(used: bool, max_drop: float | None, max_disagree: float | None) -> Bounds:
    """Bounds of a command line's options.

    Raises:
        UsageError: out of range, or given where nothing is `used` that keeps to them.
    """
    given = {"max_drop": max_drop, "max_disagree": max_disagree}
    chosen = {name: value for name, value in given.items() if value is not None}
    if chosen and not used:
        flag = next(iter(chosen)).replace("_", "-")
        raise UsageError(f"--{flag} goes with --fp16 or --int8; add one or leave it out")
    return Bounds(**chosen)


@dataclass(frozen=True)
class Difference:
    """Of logits from the reference's, over some windows."""

    windows: int
    agreement: float  # share of pixels with the same class, 0..1
    mean_abs: float  # mean distance of two logits
    max_abs: float
    span: float  # the reference's logits from lowest to highest

    def line(self, which: str = "windows held out") -> str:
        """For people."""
        return (
            f"same class  {share_text(self.agreement)} of the pixels of {self.windows} {which}; "
            f"logits differ by {self.mean_abs:.3g} in the mean, {self.max_abs:.3g} at "
            f"most, of a range of {self.span:.3g}"
        )


@dataclass(frozen=True)
class SceneScores:
    """Both graphs' scores on labelled scenes, windows side by side."""

    scenes: int
    mean_iou: tuple[float, float]  # FP32, the other; 0..1

    @property
    def drop(self) -> float:
        """Points of mIoU lost, 0..100; negative where the other scores higher."""
        return 100 * (self.mean_iou[0] - self.mean_iou[1])

    def line(self, name: str) -> str:
        """For people."""
        before, after = self.mean_iou
        word = "scene" if self.scenes == 1 else "scenes"
        return (
            f"mIoU        {before:.4f} in FP32, {after:.4f} in {name} ({-self.drop:+.2f} points) "
            f"on {self.scenes} labelled {word}"
        )

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types only."""
        return {**asdict(self), "mean_iou": list(self.mean_iou), "drop_points": self.drop}


def require_close(name: str, held: bool, why: str) -> None:
    """Refuse a graph that is too far from its FP32 graph.

    Args:
        name: INT8 or FP16.
        held: Whether it is close enough.
        why: It is not, and what to do.

    Raises:
        ExportError: it is not close enough.
    """
    if not held:
        raise ExportError(f"{name} is refused: {why}; nothing was written")


def require_scores(name: str, scores: SceneScores | None, bounds: Bounds) -> None:
    """Refuse a graph that loses more mIoU than allowed; without labels none is known to.

    Raises:
        ExportError: with the scores.
    """
    if scores is not None:
        require_close(
            name,
            scores.drop <= bounds.max_drop,
            f"{scores.line(name)}, allowed are {bounds.max_drop:g} points less; "
            "keep to FP32, or raise --max-drop",
        )


def logits_of(backend: Backend, windows: Windows) -> list[Logits]:
    """(1, classes, row, column) for each window; copies."""
    ones = (slice(index, index + 1) for index in range(len(windows)))
    return [backend.infer(windows.feed(one, backend))["logits"].copy() for one in ones]


def difference(expected: Sequence[Logits], found: Sequence[Logits]) -> Difference:
    """Compare the logits of two graphs, window by window."""
    pairs = list(zip(expected, found, strict=True))
    return Difference(
        windows=len(pairs),
        agreement=float(np.mean([(a.argmax(1) == b.argmax(1)).mean() for a, b in pairs])),
        mean_abs=float(np.mean([np.abs(a - b).mean(dtype=np.float64) for a, b in pairs])),
        max_abs=float(np.max([np.abs(a - b).max() for a, b in pairs])),
        span=float(np.max(expected) - np.min(expected)),
    )


def scores_on_scenes(
    reference: Callable[[], Backend],
    candidate: Callable[[], Backend],
    folder: Path,
    bands: Sequence[int] | None = None,
) -> SceneScores | None:
    """mIoU of both graphs on a folder of scenes; None where it has no label/.

    Every pixel is seen once: windows lie side by side.

    Args:
        reference: Opens the FP32 graph; asked once.
        candidate: Opens the other graph, after the other was closed.
        folder: image/ dsm/ and perhaps label/.
        bands: 1-based image bands; None takes the first three.

    Raises:
        UsageError: nothing in the labels is one of the model's classes.
        SceneError: a raster is missing or damaged, or a label is out of range.
    """
    if not (folder / "label").is_dir():
        return None
    counts, found = [], []
    for opened in (reference, candidate):
        with opened() as backend:
            scenes, score = _mean_iou(backend, folder, bands)
        counts.append(scenes)
        found.append(score)
    if any(np.isnan(score) for score in found):
        raise UsageError(f"{folder / 'label'}: no labelled pixel; add labels or leave label/ out")
    return SceneScores(counts[0], (found[0], found[1]))


def _mean_iou(backend: Backend, folder: Path, bands: Sequence[int] | None) -> tuple[int, float]:
    contract = backend.contract
    first, second, third = bands or (1, 2, 3)
    dataset = dataset_from_folder(folder, classes=contract.classes, bands=(first, second, third))
    # A plain folder's scenes are all listed as `train`.
    scenes = open_labelled_scenes(dataset.train, dataset, contract.image.full_scale)
    result = evaluate(backend, scenes, SegmentOptions(contract.window))
    there = tuple(np.flatnonzero(result.matrix.counts.sum(1)).tolist())  # classes with a label
    return len(dataset.train), result.matrix.scores(there).mean_iou if there else float("nan")
