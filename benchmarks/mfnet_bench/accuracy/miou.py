"""Score models side by side on the same labelled scenes: one confusion matrix each."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mfnet.data.datasets import Dataset
from mfnet.data.scene_data import Labels
from mfnet_bench.accuracy.scoring import (
    ScoringRequest,
    agreement,
    open_model,
    scene_sizes,
    scored_run,
)
from mfnet_bench.table import figure, markdown_table
from mfnet_runtime.console import progress
from mfnet_runtime.contract import Contract
from mfnet_runtime.errors import ModelError, UsageError
from mfnet_runtime.files import replace_text
from mfnet_runtime.labels import ClassTable
from mfnet_runtime.metrics import Scores, paper_classes
from mfnet_runtime.tiling.options import DEFAULT_BLEND, PUBLISHED
from mfnet_runtime.tiling.pipeline import SegmentOptions


@dataclass(frozen=True, kw_only=True)
class MiouRequest(ScoringRequest):
    """What to score on what."""

    models: tuple[Path, ...]
    paper: bool = False  # the published protocol: its stride, its sum of logits, its mean
    stride: int | None = None  # pixels
    blend: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.paper and (self.stride or self.blend):
            raise UsageError("--paper fixes stride and blending; leave --stride and --blend out")

    def counted(self, classes: ClassTable) -> tuple[int, ...] | None:
        """As asked, else the published mean where the published protocol is asked for."""
        if self.paper and self.mean_over is None:
            return paper_classes(classes)
        return super().counted(classes)


@dataclass(frozen=True)
class ModelRow:
    """One model's result."""

    model: str
    backend: str
    device: str
    scores: Scores
    agreement: float  # share of pixels with the first model's class
    windows: int
    windows_per_s: float
    outside_backend: float  # share of the time not spent in the backend

    def to_dict(self, classes: ClassTable) -> dict[str, Any]:
        """Plain JSON types."""
        facts = {name: value for name, value in vars(self).items() if name != "scores"}
        return {**facts, "classes": list(classes.names), **self.scores.to_dict()}


def scored_models(request: MiouRequest) -> tuple[ClassTable, list[ModelRow]]:
    """Run every model over every scene.

    Raises:
        UsageError: models, scenes or labels missing.
        ModelError: a model cannot be loaded, or models disagree on the number of classes.
        SceneError: a scene is damaged or does not fit.
    """
    first: dict[str, Labels] = {}
    rows: list[ModelRow] = []
    classes: ClassTable | None = None
    for path in request.models:
        with open_model(path, request.threads) as backend:
            contract = backend.contract
            classes = classes or contract.classes
            if len(contract.classes) != len(classes):
                raise ModelError(
                    f"{path}: has {len(contract.classes)} classes, {request.models[0].name} has "
                    f"{len(classes)}; compare models of the same classes"
                )
            dataset = request.open_dataset(contract)
            options = _options(request, dataset, contract)
            total = sum(
                len(options.grid(*size, contract.window)) for size in scene_sizes(dataset, contract)
            )
            with progress(total, path.name) as tick:
                result, maps = scored_run(backend, dataset, options, tick)
            first = first or maps
            rows.append(
                ModelRow(
                    _name(path, request.models),
                    backend.name,
                    backend.device,
                    result.matrix.scores(request.counted(contract.classes)),
                    agreement(first, maps),
                    result.windows,
                    result.windows / result.backend_s if result.backend_s else 0.0,
                    1 - result.backend_s / result.total_s if result.total_s else 0.0,
                )
            )
    assert classes is not None  # click asks for one model at least
    return classes, rows


def summary_table(classes: ClassTable, rows: Sequence[ModelRow]) -> str:
    """Two Markdown tables: models, and IoU, F1 and recall of each class."""
    models = markdown_table(
        ["model", "backend", "mIoU", "mF1", "OA", "kappa", "agreement", "windows/s", "outside"],
        [
            [
                row.model,
                row.backend,
                figure(row.scores.mean_iou),
                figure(row.scores.mean_f1),
                figure(row.scores.oa),
                figure(row.scores.kappa),
                f"{row.agreement:.4%}",
                figure(row.windows_per_s, 2),
                f"{row.outside_backend:.1%}",
            ]
            for row in rows
        ],
    )
    backends = [row.backend for row in rows]
    titles = backends if len(set(backends)) == len(rows) else [row.model for row in rows]
    per_class = markdown_table(
        ["class", *(f"{title} {kind}" for title in titles for kind in ("IoU", "F1", "recall"))],
        [
            [
                name + ("" if index in rows[0].scores.counted else " (not in the means)"),
                *(
                    figure(values[index])
                    for row in rows
                    for values in (row.scores.iou, row.scores.f1, row.scores.recall)
                ),
            ]
            for index, name in enumerate(classes.names)
        ],
    )
    return f"{models}\n\n{per_class}"


def write_results(folder: Path, classes: ClassTable, rows: Sequence[ModelRow]) -> None:
    """`miou.json` with everything and `miou.csv` with a row a model and class."""
    folder.mkdir(parents=True, exist_ok=True)
    facts = [row.to_dict(classes) for row in rows]
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["model", "backend", "class", "iou", "f1", "precision", "recall"])
    for fact in facts:
        for index, name in enumerate(classes.names):
            kinds = (fact[kind][index] for kind in ("iou", "f1", "precision", "recall"))
            table.writerow([fact["model"], fact["backend"], name, *kinds])
        means = [fact["mean_iou"], fact["mean_f1"], None, None]
        table.writerow([fact["model"], fact["backend"], "mean", *means])
    replace_text(folder / "miou.json", json.dumps(facts, indent=1) + "\n")
    replace_text(folder / "miou.csv", text.getvalue())


def _name(path: Path, models: Sequence[Path]) -> str:
    """The file's name, or its whole path where two models share a name."""
    return str(path) if sum(other.name == path.name for other in models) > 1 else path.name


def _options(request: MiouRequest, dataset: Dataset, contract: Contract) -> SegmentOptions:
    if request.paper:
        stride = min(dataset.test_stride, contract.window)
        return SegmentOptions(stride, batch=request.batch, preprocess="cpu", protocol=PUBLISHED)
    blend: Any = request.blend or DEFAULT_BLEND
    return SegmentOptions(request.stride, blend, request.batch)
