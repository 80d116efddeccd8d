"""From a request to a `Trainer`: read the data, build the network, load SAM."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from functools import partial
from itertools import pairwise
from statistics import median
from typing import Any

import torch

from mfnet.config import PRESETS
from mfnet.data.datasets import DEFAULT_BANDS, Dataset, dataset_from_folder, dataset_from_layout
from mfnet.data.label_checks import check_labels
from mfnet.data.labels import classes_from_file
from mfnet.data.scenes import (
    LabelledScene,
    MemoryScene,
    count_classes,
    load_scene,
    open_labelled_scenes,
    warn_about_scenes,
)
from mfnet.model.network import MFNet
from mfnet.training.initial_weights import InitialWeights
from mfnet.training.options import PAPER, TrainConfig, TrainRequest
from mfnet.training.run_directory import RunDirectory
from mfnet.training.train import Trainer
from mfnet.tuning.adapter import Adapter
from mfnet_runtime.contract import Contract, ImageRule
from mfnet_runtime.errors import UsageError
from mfnet_runtime.labels import ClassTable
from mfnet_runtime.scene.discovery import Scene
from mfnet_runtime.scene.image import pixel_size
from mfnet_runtime.scene.options import MODEL, ReadOptions
from mfnet_runtime.scene.reader import DEFAULT_OPTIONS, open_raster
from mfnet_runtime.version import installed_version

logger = logging.getLogger(__name__)


def prepare_training(
    request: TrainRequest, recipe: TrainConfig, read: ReadOptions = DEFAULT_OPTIONS
) -> Trainer:
    """Read the data, build the network, load SAM's weights and freeze them.

    Args:
        request: Data and network.
        recipe: Its steps, batch and stride are replaced by those of the request.
        read: How to read scenes; a benchmark's layout fixes some of it.

    Raises:
        UsageError: Options contradict each other, or files or a CUDA device are missing.
        ModelError: The SAM file or the checkpoint does not fit.
        SceneError: A raster is damaged or does not fit.
    """
    if read.resample_to == MODEL:
        raise UsageError("--resample-to model: it is trained first; give the pixel size in metres")
    if recipe.recipe == PAPER and request.sam is None:
        request = replace(request, zero_rel_pos=False)  # the recipe's default is about SAM's tables
    device = choose_device(request.device)
    dataset = _find_dataset(request, read)
    initial = InitialWeights.of(request, len(dataset.classes))
    sizes = {
        "steps": dataset.steps_per_epoch,
        "batch": 4 if initial.config.depth >= PRESETS["vit_h"]["depth"] else 10,
        "stride": _validation_stride(dataset, request, recipe),
    }
    asked = {name: getattr(request, name) for name in sizes}
    recipe = replace(recipe, **sizes | {k: v for k, v in asked.items() if v is not None})
    full_scale = request.full_scale
    if full_scale is None:
        full_scale = _default_full_scale(dataset.train[0], dataset.read)
    contract = Contract(
        window=request.window,
        classes=dataset.classes,
        image=ImageRule(dataset.band_names, full_scale),
        dsm=request.dsm_rule,
        pixel_size=_pixel_size(dataset),
    )
    torch.manual_seed(recipe.seed)
    network = MFNet(initial.config)
    if recipe.recipe == PAPER:
        dataset = replace(dataset, stray=0)
        for module in network.modules():
            if isinstance(module, Adapter):
                module.D_fc2.reset_parameters()
    facts: dict[str, Any] = {
        "dataset": dataset.name,
        "bands": list(dataset.read.bands or DEFAULT_BANDS),
        **initial.load(network, contract),
    }
    contract = contract.with_provenance(
        mfnet=installed_version("mfnet"), torch=str(torch.__version__), **facts
    )
    counts = network.parameter_counts()
    facts |= {
        "parameters": asdict(counts),
        "scenes": [scene.name for scene in dataset.train],
        "validation": [scene.name for scene in dataset.test] or f"holdout {request.holdout:g}",
    }
    logger.info(
        "%.2f M parameters train (%.2f M of them %s), %.2f M are frozen; on %s",
        counts.trainable / 1e6,
        counts.tuning / 1e6,
        initial.config.tuning,
        counts.frozen / 1e6,
        device,
    )
    warn_about_scenes((*dataset.train, *dataset.test), dataset, contract)
    scenes, validation = _load_scenes(dataset, request, full_scale)
    directory = RunDirectory(request.out)
    return Trainer(network.to(device), contract, recipe, scenes, validation, directory, facts)


def _validation_stride(dataset: Dataset, request: TrainRequest, recipe: TrainConfig) -> int:
    if recipe.recipe == PAPER and dataset.name == "mmhunan":
        return request.window  # its images are windows
    return min(dataset.stride, request.window // 2)


def choose_device(name: str) -> torch.device:
    """Return a device; `auto` is CUDA where available, else the CPU.

    Raises:
        UsageError: The device is unknown, or there is no CUDA device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError(f"--device {name}: PyTorch sees no CUDA device; use --device cpu")
    try:
        return torch.device(name)
    except RuntimeError as fault:
        raise UsageError(f"--device {name}: no such device; use auto, cpu or cuda") from fault


def _find_dataset(request: TrainRequest, read: ReadOptions) -> Dataset:
    if request.dataset is not None:
        if request.only or request.classes or request.validation:
            raise UsageError(
                "--dataset fixes scenes and classes; leave --only, --val and --classes out"
            )
        return dataset_from_layout(request.dataset, request.data, read)
    return dataset_from_folder(
        request.data,
        validation=request.validation,
        only=request.only,
        classes=classes_from_file(request.classes) if request.classes else None,
        read=read,
    )


def _default_full_scale(scene: Scene, read: ReadOptions) -> float:
    with open_raster(scene.image, read.limits) as image:
        kind = str(image.dtypes[0])
    if kind == "uint8":
        return 255.0
    raise UsageError(
        f"{scene.image}: pixels are {kind}; give the value that becomes 1.0 with --full-scale"
    )


def _pixel_size(dataset: Dataset) -> float | None:
    """Return the median over the scenes to train on, metres on the ground; None if unknown."""
    found = []
    for scene in dataset.train:
        with open_raster(scene.image, dataset.read.limits) as image:
            size = pixel_size(image, dataset.read)
        if size is not None:
            found.append(size)
    return float(f"{median(found):.6g}") if found else None


def _load_scenes(
    dataset: Dataset, request: TrainRequest, full_scale: float
) -> tuple[list[MemoryScene], Callable[[], Iterable[LabelledScene]]]:
    """Return the scenes to train on, and a function that returns those to validate on."""
    scenes = [load_scene(scene, dataset, full_scale) for scene in dataset.train]
    classes = dataset.classes
    if not count_classes(scenes, len(classes)).sum():
        raise UsageError(f"{request.data}: no labelled pixel in any scene; nothing to learn from")
    named = request.dataset is None and classes.names != ClassTable.numbered(len(classes)).names
    check = partial(check_labels, dataset, named=named, allowed=request.allow_odd_labels)
    if dataset.test:
        check([(scene.name, scene.label) for scene in scenes], None)
        # Read again after each epoch, since they need not fit into memory.
        return scenes, lambda: open_labelled_scenes(dataset.test, dataset, full_scale)
    trained: list[MemoryScene] = []
    held_out: list[LabelledScene] = []
    for scene in scenes:
        kept, held = split_rows(scene, request.holdout, request.window)
        trained += kept
        held_out += [LabelledScene(part.name, part, part.label) for part in held]
    check(
        [(part.name, part.label) for part in trained],
        [(part.name, part.label) for part in held_out],
    )
    return trained, lambda: held_out


def split_rows(
    scene: MemoryScene, share: float, window: int
) -> tuple[list[MemoryScene], list[MemoryScene]]:
    """Split a scene into parts to train on and parts held out for validation.

    The held-out parts are bands of about a window's height, evenly spread, because one end of a
    scene may be all river.

    Args:
        scene: The whole scene.
        share: Share of the rows to hold out.
        window: Pixels per side.

    Raises:
        UsageError: The share is not between 0 and 1, or leaves no rows on one side.
    """
    held_rows = round(scene.height * share)
    if not 0 < held_rows < scene.height:
        raise UsageError(
            f"--holdout is {share:g}, {held_rows} of the {scene.height} rows of '{scene.name}'; "
            "expected a share between 0 and 1 that leaves rows on both sides"
        )
    bands = max(1, round(held_rows / window))
    edges = [0]
    for index in range(bands):
        start = round((index + 0.5) / bands * scene.height - held_rows / bands / 2)
        edges += [start, start + held_rows // bands]
    edges.append(scene.height)
    parts = [scene.rows(start, stop) for start, stop in pairwise(edges)]
    return [part for part in parts[::2] if part.height], parts[1::2]
