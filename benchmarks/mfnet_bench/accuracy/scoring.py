"""What commands that score models on labelled scenes share: request, model, dataset, one run.

Knows neither which models are compared nor what is done with the scores.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mfnet.data.datasets import Dataset, dataset_from_folder, dataset_from_layout
from mfnet.data.scene_data import Labels, opened_scene
from mfnet.training.evaluate import Evaluation, evaluated, labelled_scenes
from mfnet_runtime.backends import Backend, backend_from_file
from mfnet_runtime.contract import Contract
from mfnet_runtime.errors import UsageError
from mfnet_runtime.labels import IGNORE, ClassTable
from mfnet_runtime.scene.discovery import Scene
from mfnet_runtime.tiling.pipeline import SegmentOptions, Tick

CHECKPOINTS = (".pt", ".pth")


@dataclass(frozen=True, kw_only=True)
class ScoringRequest:
    """On which scenes to score, and how."""

    scenes: Path
    dataset: str | None = None  # a benchmark's layout; None: image/ dsm/ label/
    only: tuple[str, ...] = ()
    mean_over: str | None = None  # class indices the means are taken over: "0,1,2,3"; None: all
    batch: int = 4
    threads: int | None = None  # None: the backend's own
    bands: tuple[int, int, int] | None = None  # of the images, from 1; None: the dataset's

    def __post_init__(self) -> None:
        if self.dataset is not None and (self.only or self.bands):
            raise UsageError("--dataset fixes scenes and bands; leave --only and --bands out")

    def open_dataset(self, contract: Contract) -> Dataset:
        """The labelled scenes, read as the model wants them.

        Raises:
            UsageError: scenes or labels missing.
        """
        if self.dataset is not None:
            return dataset_from_layout(self.dataset, self.scenes)
        return dataset_from_folder(
            self.scenes,
            only=self.only,
            classes=contract.classes,
            bands=self.bands or (1, 2, 3),
        )

    def counted(self, classes: ClassTable) -> tuple[int, ...] | None:
        """Classes that the means are taken over; None for all.

        Raises:
            UsageError: not class indices of the model.
        """
        if self.mean_over is None:
            return None
        try:
            counted = tuple(int(part) for part in self.mean_over.split(","))
        except ValueError:
            counted = ()
        if not counted or not set(counted) <= set(range(len(classes))):
            raise UsageError(
                f"--mean-over {self.mean_over!r}: expected class indices from 0 to "
                f"{len(classes) - 1}, for example 0,1"
            )
        return counted


def open_model(path: Path, threads: int | None = None, backend: str = "auto") -> Backend:
    """A checkpoint in PyTorch, anything else in the runtime's backend for it.

    Raises:
        UsageError: no such file or backend.
        ModelError: damaged, or no backend runs it.
    """
    if path.suffix.lower() not in CHECKPOINTS or backend != "auto":
        return backend_from_file(path, backend, threads=threads or 0)
    import torch

    from mfnet.checkpoints.checkpoint import load_checkpoint, network_from_checkpoint
    from mfnet.model.torch_backend import TorchBackend

    if threads:
        torch.set_num_threads(threads)
    checkpoint = load_checkpoint(path)
    return TorchBackend(network_from_checkpoint(checkpoint), checkpoint.contract)


def scored_scenes(dataset: Dataset) -> list[Scene]:
    """The scenes that scores are for; a plain folder's scenes are all listed as `train`."""
    return dataset.test or dataset.train


def scene_sizes(dataset: Dataset, contract: Contract) -> list[tuple[int, int]]:
    """(rows, columns) of each scene.

    Raises:
        SceneError: a scene is damaged or does not fit the model.
    """
    sizes = []
    for scene in scored_scenes(dataset):
        with opened_scene(scene, dataset, contract.image.full_scale) as reader:
            sizes.append((reader.height, reader.width))
    return sizes


def scored_run(
    backend: Backend, dataset: Dataset, options: SegmentOptions, tick: Tick
) -> tuple[Evaluation, dict[str, Labels]]:
    """Segment and score every scene: the evaluation, and each scene's class map by name.

    Raises:
        SceneError: a scene is damaged or a label is out of range.
    """
    full_scale = backend.contract.image.full_scale
    opened = labelled_scenes(scored_scenes(dataset), dataset, full_scale)
    maps: dict[str, Labels] = {}
    return evaluated(backend, opened, options, tick, maps), maps


def agreement(first: Mapping[str, Labels], other: Mapping[str, Labels]) -> float:
    """Share of the pixels with data that have the same class in both sets of maps."""
    same = total = 0
    for name, classes in first.items():
        known = classes != IGNORE
        same += int(np.count_nonzero((classes == other[name]) & known))
        total += int(np.count_nonzero(known))
    return same / total if total else 1.0
