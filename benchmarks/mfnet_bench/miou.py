"""Score models side by side on the same labelled scenes: one confusion matrix each."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mfnet.datasets import Dataset, dataset_from_folder, dataset_from_layout
from mfnet.evaluate import Evaluation, LabelledScene, evaluated
from mfnet.scene_data import Labels, label_of, opened_scene
from mfnet_bench.table import figure, markdown_table
from mfnet_runtime.backends import Backend, backend_from_file
from mfnet_runtime.command import progress
from mfnet_runtime.contract import Contract
from mfnet_runtime.errors import ModelError, UsageError
from mfnet_runtime.files import replace_text
from mfnet_runtime.labels import IGNORE, ClassTable
from mfnet_runtime.metrics import Scores, paper_classes
from mfnet_runtime.pipeline import SegmentOptions

CHECKPOINTS = (".pt", ".pth")


@dataclass(frozen=True)
class MiouRequest:
    """What to score on what."""

    models: tuple[Path, ...]
    scenes: Path
    dataset: str | None = None  # a benchmark's layout; None: image/ dsm/ label/
    only: tuple[str, ...] = ()
    mean_over: str | None = None  # class indices the means are taken over: "0,1,2,3"; None: all
    paper: bool = False  # the published protocol: its stride, uniform blending, its mean
    stride: int | None = None  # pixels
    blend: str | None = None
    batch: int = 4
    threads: int | None = None  # None: the backend's own
    bands: tuple[int, int, int] | None = None  # of the images, from 1; None: the dataset's

    def __post_init__(self) -> None:
        if self.paper and (self.stride or self.blend):
            raise UsageError("--paper fixes stride and blending; leave --stride and --blend out")
        if self.dataset is not None and (self.only or self.bands):
            raise UsageError("--dataset fixes scenes and bands; leave --only and --bands out")


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
            dataset = _dataset(request, contract)
            options = _options(request, dataset, contract)
            maps: dict[str, Labels] = {}
            result = _evaluated(backend, dataset, options, maps, path.name)
            first = first or maps
            counted = _counted(request, contract.classes)
            rows.append(
                ModelRow(
                    _name(path, request.models),
                    backend.name,
                    backend.device,
                    result.matrix.scores(counted),
                    agreement(first, maps),
                    result.windows,
                    result.windows / result.backend_s if result.backend_s else 0.0,
                    1 - result.backend_s / result.total_s if result.total_s else 0.0,
                )
            )
    assert classes is not None  # click asks for one model at least
    return classes, rows


def open_model(path: Path, threads: int | None = None) -> Backend:
    """A checkpoint in PyTorch, anything else in the runtime's backend for it.

    Raises:
        UsageError: no such file.
        ModelError: damaged, or no backend runs it.
    """
    if path.suffix.lower() not in CHECKPOINTS:
        return backend_from_file(path, threads=threads or 0)
    import torch

    from mfnet.checkpoint import load_checkpoint, network_from_checkpoint
    from mfnet.torch_backend import TorchBackend

    if threads:
        torch.set_num_threads(threads)
    checkpoint = load_checkpoint(path)
    return TorchBackend(network_from_checkpoint(checkpoint), checkpoint.contract)


def agreement(first: dict[str, Labels], other: dict[str, Labels]) -> float:
    """Share of the pixels with data to which two models give the same class."""
    same = total = 0
    for name, classes in first.items():
        known = classes != IGNORE
        same += int(np.count_nonzero((classes == other[name]) & known))
        total += int(np.count_nonzero(known))
    return same / total if total else 1.0


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


def _dataset(request: MiouRequest, contract: Contract) -> Dataset:
    if request.dataset is not None:
        return dataset_from_layout(request.dataset, request.scenes)
    return dataset_from_folder(
        request.scenes,
        only=request.only,
        classes=contract.classes,
        bands=request.bands or (1, 2, 3),
    )


def _name(path: Path, models: Sequence[Path]) -> str:
    """The file's name, or its whole path where two models share a name."""
    return str(path) if sum(other.name == path.name for other in models) > 1 else path.name


def _counted(request: MiouRequest, classes: ClassTable) -> tuple[int, ...] | None:
    """Classes that the means are taken over; None for all."""
    if request.mean_over is None:
        return paper_classes(classes) if request.paper else None
    try:
        counted = tuple(int(part) for part in request.mean_over.split(","))
    except ValueError:
        counted = ()
    if not counted or not set(counted) <= set(range(len(classes))):
        raise UsageError(
            f"--mean-over {request.mean_over!r}: expected class indices from 0 to "
            f"{len(classes) - 1}, for example 0,1"
        )
    return counted


def _options(request: MiouRequest, dataset: Dataset, contract: Contract) -> SegmentOptions:
    if request.paper:
        return SegmentOptions(min(dataset.test_stride, contract.window), "uniform", request.batch)
    blend: Any = request.blend or "hann"
    return SegmentOptions(request.stride, blend, request.batch)


def _evaluated(
    backend: Backend,
    dataset: Dataset,
    options: SegmentOptions,
    maps: dict[str, Labels],
    label: str,
) -> Evaluation:
    scenes = dataset.test or dataset.train  # a plain folder's scenes are all listed as `train`
    contract = backend.contract
    scale = contract.image.full_scale

    def opened() -> Iterator[LabelledScene]:
        for scene in scenes:
            with opened_scene(scene, dataset, scale) as reader:
                yield LabelledScene(scene.name, reader, label_of(scene, dataset, reader))

    total = 0
    for scene in scenes:
        with opened_scene(scene, dataset, scale) as reader:
            total += len(options.grid(reader.height, reader.width, contract.window))
    with progress(total, label) as tick:
        return evaluated(backend, opened(), options, tick, maps)
