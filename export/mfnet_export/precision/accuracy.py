"""Difference of an FP16 or INT8 graph from its FP32 graph, on windows and on labelled scenes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mfnet.data.datasets import dataset_from_folder, published_in
from mfnet.data.scenes import open_labelled_scenes
from mfnet.training.evaluate import evaluate
from mfnet_export.files import ExportError
from mfnet_export.options import ExportOptions
from mfnet_export.report import labelled, share_text, size_text
from mfnet_export.validation.sample_windows import Windows
from mfnet_runtime.backends.base import Backend
from mfnet_runtime.errors import UsageError
from mfnet_runtime.scene.layouts import layout_in
from mfnet_runtime.scene.options import ReadOptions
from mfnet_runtime.scene.reader import DEFAULT_OPTIONS
from mfnet_runtime.tiling.pipeline import SegmentOptions

logger = logging.getLogger(__name__)

Logits = npt.NDArray[np.float32]
Engine = Callable[[Path], Backend]  # opens a graph


@dataclass(frozen=True)
class Difference:
    """Difference between logits and reference logits over some windows."""

    windows: int
    agreement: float  # share of pixels with the same class, 0..1
    mean_abs: float  # mean difference of a logit
    max_abs: float
    span: float  # range of the reference logits

    def line(self, which: str = "held-out windows") -> str:
        """Return the numbers as text."""
        return (
            f"same class  {share_text(self.agreement)} of the pixels of {self.windows} {which}; "
            f"logits differ by {self.mean_abs:.3g} on average, {self.max_abs:.3g} at "
            f"most, in a range of {self.span:.3g}"
        )


@dataclass(frozen=True)
class SceneScores:
    """Scores of the FP32 graph and another one on labelled scenes."""

    scenes: int
    mean_iou: tuple[float, float]  # FP32, the other; 0..1

    @property
    def drop(self) -> float:
        """Points of mIoU lost, 0..100; negative if the other graph scores higher."""
        return 100 * (self.mean_iou[0] - self.mean_iou[1])

    def line(self, name: str) -> str:
        """Return the scores as text."""
        before, after = self.mean_iou
        return (
            f"mIoU        {before:.4f} in FP32, {after:.4f} in {name} ({-self.drop:+.2f} points) "
            f"on {self.scenes} labelled scene{'' if self.scenes == 1 else 's'}"
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {**asdict(self), "mean_iou": list(self.mean_iou), "drop_points": self.drop}


@dataclass(frozen=True)
class PrecisionReport:
    """An FP16 or INT8 file and its difference from FP32."""

    name: str  # its precision: fp16, int8 or int8+fp16
    output: Path
    size: int  # bytes, including weights beside the file
    facts: dict[str, Any]  # plain JSON types; in the provenance of the file's contract too
    rows: list[str]  # the facts as text

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {"output": str(self.output), "bytes": self.size, **self.facts}

    def lines(self) -> list[str]:
        """Return the report as text."""
        return labelled(self.name, [f"{self.output}  {size_text(self.size)}", *self.rows])


def logits_of(backend: Backend, windows: Windows) -> list[Logits]:
    """Run a backend window by window; return copies of the logits (1, classes, row, column)."""
    ones = (slice(index, index + 1) for index in range(len(windows)))
    return [backend.infer(windows.feed(one, backend))["logits"].copy() for one in ones]


def measure_difference(expected: Sequence[Logits], found: Sequence[Logits]) -> Difference:
    """Compare the logits of two graphs, window by window."""
    pairs = list(zip(expected, found, strict=True))
    return Difference(
        windows=len(pairs),
        agreement=float(np.mean([(a.argmax(1) == b.argmax(1)).mean() for a, b in pairs])),
        mean_abs=float(np.mean([np.abs(a - b).mean(dtype=np.float64) for a, b in pairs])),
        max_abs=float(np.max([np.abs(a - b).max() for a, b in pairs])),
        span=float(np.max(expected) - np.min(expected)),
    )


def scores_row(scores: SceneScores | None, name: str) -> str:
    """Return the scores of a graph as text, or that there are none."""
    return scores.line(name) if scores else "mIoU        not measured: the scenes have no label/"


def require_scores(
    name: str,
    engine: Engine,
    graphs: tuple[Path, Path],
    folders: Iterable[Path | None],
    options: ExportOptions,
) -> SceneScores | None:
    """Score a graph on the first folder of scenes with labels, and refuse it if it loses too much.

    Args:
        name: FP16, INT8 or INT8+FP16, for messages.
        engine: Opens a graph.
        graphs: The FP32 graph and the other one.
        folders: Folders of scenes.
        options: How to read scenes, and the points of mIoU that may be lost.

    Returns:
        The scores; None if no folder has labels.

    Raises:
        ExportError: The graph loses more mIoU than allowed.
        UsageError: The labels have no pixel of one of the model's classes.
        SceneError: A raster is missing or damaged, or a label is out of range.
    """
    labelled = [folder for folder in folders if folder is not None and (folder / "label").is_dir()]
    if not labelled:
        return None
    logger.info("scoring FP32 and %s on %s", name, labelled[0])
    first, second = graphs
    scores = scores_on_scenes(
        lambda: engine(first), lambda: engine(second), labelled[0], options.read
    )
    if scores is not None and scores.drop > options.max_drop:
        raise ExportError(
            f"{name} is refused: {scores.line(name)}, allowed are {options.max_drop:g} points "
            "less; use the FP32 file, or raise --max-drop; nothing was written"
        )
    return scores


def scores_on_scenes(
    reference: Callable[[], Backend],
    candidate: Callable[[], Backend],
    folder: Path,
    read: ReadOptions = DEFAULT_OPTIONS,
) -> SceneScores | None:
    """Compute the mIoU of two graphs on scenes, with windows side by side; None without label/.

    Args:
        reference: Opens the FP32 graph.
        candidate: Opens the other graph, after the first one was closed.
        folder: Folder with image/, dsm/ and possibly label/, or of a published dataset, whose test
            scenes count.
        read: How to read scenes.

    Raises:
        UsageError: The labels have no pixel of one of the model's classes.
        SceneError: A raster is missing or damaged, or a label is out of range.
    """
    if layout_in(folder) is None and not (folder / "label").is_dir():
        return None
    found = []
    for opened in (reference, candidate):
        with opened() as backend:
            scenes, score = _mean_iou(backend, folder, read)
        found.append(score)
    if any(np.isnan(score) for score in found):
        raise UsageError(f"{folder}: no labelled pixel; add labels or remove label/")
    return SceneScores(scenes, (found[0], found[1]))


def _mean_iou(backend: Backend, folder: Path, read: ReadOptions) -> tuple[int, float]:
    contract = backend.contract
    dataset = published_in(folder, read)
    if dataset is None:
        dataset = dataset_from_folder(folder, classes=contract.classes, read=read)
    listed = dataset.test or dataset.train  # the scenes of a plain folder are all in `train`
    scenes = open_labelled_scenes(listed, dataset, contract.image.full_scale)
    result = evaluate(backend, scenes, SegmentOptions(contract.window))
    present = tuple(np.flatnonzero(result.matrix.counts.sum(1)).tolist())  # classes with labels
    score = result.matrix.scores(present).mean_iou if present else float("nan")
    return len(listed), score
