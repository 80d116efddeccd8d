"""From what was asked for on the command line to a `Training` ready to run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from mfnet.checkpoints.sam_weights import load_sam_weights
from mfnet.config import config_from_preset
from mfnet.data.dataset_labels import classes_from_file
from mfnet.data.datasets import Dataset, dataset_from_folder, dataset_from_layout
from mfnet.data.scene_data import MemoryScene, class_counts, scene_in_memory
from mfnet.model.network import MFNet
from mfnet.training.evaluate import LabelledScene
from mfnet.training.run_directory import RunFolder
from mfnet.training.train import Say, Training, ValidationScenes
from mfnet.training.train_config import TrainConfig
from mfnet_runtime.contract import Contract, DsmRule, ImageRule
from mfnet_runtime.errors import UsageError
from mfnet_runtime.files import sha256_from_file
from mfnet_runtime.scene.discovery import Scene
from mfnet_runtime.scene.reader import open_raster
from mfnet_runtime.version import installed_version


@dataclass(frozen=True)
class TrainRequest:
    """What to train on what."""

    data: Path
    out: Path
    recipe: TrainConfig
    steps: int | None = None  # batches an epoch; None: the dataset's
    stride: int | None = None  # pixels between validation windows; None: the dataset's
    dataset: str | None = None  # a benchmark's layout; None: image/ dsm/ label/
    classes: Path | None = None  # JSON list of {"name", "colour"}
    only: tuple[str, ...] = ()  # scenes of the folder to train on; empty: all
    validation: Path | None = None  # folder of scenes to choose the best epoch by
    holdout: float = 0.2  # share of each scene's rows to validate on where no folder is given
    backbone: str = "vit_b"
    tuning: str = "lora"
    rank: int = 4
    window: int = 256  # pixels
    sam: Path | None = None
    from_scratch: bool = False
    zero_rel_pos: bool = False
    dsm_rule: DsmRule = field(default_factory=DsmRule)
    full_scale: float | None = None  # pixel value that becomes 1.0; None: by the image's type
    bands: tuple[int, int, int] = (1, 2, 3)
    device: str = "auto"


def training_from_request(request: TrainRequest, say: Say) -> Training:
    """Read the data, build the network, load SAM, freeze.

    Raises:
        UsageError: options that contradict each other, files or a CUDA device missing.
        ModelError: the SAM file does not fit.
        SceneError: a raster is damaged or does not fit.
    """
    if request.from_scratch == (request.sam is not None):
        raise UsageError(
            "give SAM's weights with --sam FILE to fine-tune them, "
            "or --from-scratch to train everything"
        )
    device = chosen_device(request.device)
    dataset = _dataset(request)
    recipe = replace(
        request.recipe,
        steps=request.steps or dataset.steps_per_epoch,
        stride=request.stride or min(dataset.stride, request.window // 2),
    )
    config = config_from_preset(
        request.backbone,
        classes=len(dataset.classes),
        window=request.window,
        tuning=request.tuning,
        rank=request.rank,
    )
    full_scale = request.full_scale
    if full_scale is None:
        full_scale = full_scale_of(dataset.train[0])
    contract = Contract(
        window=request.window,
        classes=dataset.classes,
        image=ImageRule(dataset.band_names, full_scale),
        dsm=request.dsm_rule,
    )
    torch.manual_seed(recipe.seed)
    network = MFNet(config)
    facts: dict[str, Any] = {
        "dataset": dataset.name,
        "bands": list(dataset.bands),
        **_load_sam(network, request, say),
    }
    counts = network.parameter_counts()
    say(
        f"{counts.trainable / 1e6:.2f} M parameters train ({counts.tuning / 1e6:.2f} M of them "
        f"{request.tuning}), {counts.frozen / 1e6:.2f} M are frozen; on {device}"
    )
    scenes, validation = _scenes(dataset, request, full_scale)
    return Training(
        network.to(device),
        contract.with_provenance(
            mfnet=installed_version("mfnet"), torch=str(torch.__version__), **facts
        ),
        recipe,
        scenes,
        validation,
        RunFolder(request.out),
        {
            **facts,
            "parameters": asdict(counts),
            "scenes": [scene.name for scene in dataset.train],
            "validation": [scene.name for scene in dataset.test] or f"holdout {request.holdout:g}",
        },
        say,
    )


def chosen_device(name: str) -> torch.device:
    """`auto` takes CUDA where there is one; `cuda` fails loudly where there is none.

    Raises:
        UsageError: no such device, or CUDA was asked for and is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError(f"--device {name}: PyTorch sees no CUDA device; use --device cpu")
    try:
        return torch.device(name)
    except RuntimeError as fault:
        raise UsageError(f"--device {name}: no such device; use auto, cpu or cuda") from fault


def _dataset(request: TrainRequest) -> Dataset:
    if request.dataset is not None:
        if request.only or request.classes or request.validation or request.bands != (1, 2, 3):
            raise UsageError(
                "--dataset fixes scenes, classes and bands; leave --only, --val, --classes and "
                "--bands out"
            )
        return dataset_from_layout(request.dataset, request.data)
    return dataset_from_folder(
        request.data,
        validation=request.validation,
        only=request.only,
        classes=classes_from_file(request.classes) if request.classes else None,
        bands=request.bands,
        band_names=_band_names(request.bands),
    )


def _band_names(bands: tuple[int, int, int]) -> tuple[str, str, str]:
    """What the first three bands usually show; numbers for others, since nobody said."""
    if bands == (1, 2, 3):
        return ("red", "green", "blue")
    first, second, third = bands
    return (f"band {first}", f"band {second}", f"band {third}")


def full_scale_of(scene: Scene) -> float:
    """255 for uint8 images.

    Raises:
        UsageError: another type, whose full scale nobody can guess.
    """
    with open_raster(scene.image) as image:
        kind = str(image.dtypes[0])
    if kind == "uint8":
        return 255.0
    raise UsageError(
        f"{scene.image}: pixels are {kind}; say with --full-scale which value is to become 1.0"
    )


def _load_sam(network: MFNet, request: TrainRequest, say: Say) -> dict[str, Any]:
    """Load SAM and freeze it, or leave all to train; returns what to record."""
    if request.sam is None:
        return {"sam": None, "rel_pos": "trained"}
    report = load_sam_weights(network.encoder, request.sam, zero_rel_pos=request.zero_rel_pos)
    say(report.summary())
    network.freeze_for_tuning()
    return {
        "sam": request.sam.name,
        "sam_sha256": sha256_from_file(request.sam),
        "rel_pos": "zero" if request.zero_rel_pos else "sam",
    }


def _scenes(
    dataset: Dataset, request: TrainRequest, full_scale: float
) -> tuple[list[MemoryScene], ValidationScenes]:
    scenes = [scene_in_memory(scene, dataset, full_scale) for scene in dataset.train]
    if not class_counts(scenes, len(dataset.classes)).sum():
        raise UsageError(f"{request.data}: no labelled pixel in any scene; nothing to learn from")
    if dataset.test:

        def tests() -> Iterator[LabelledScene]:
            for scene in dataset.test:  # read anew each time: they need not fit into memory
                held = scene_in_memory(scene, dataset, full_scale)
                yield LabelledScene(held.name, held, held.label)

        return scenes, tests
    parts = [split_rows(scene, request.holdout, request.window) for scene in scenes]
    kept = [LabelledScene(part.name, part, part.label) for _, held in parts for part in held]
    return [part for trained, _ in parts for part in trained], lambda: kept


def split_rows(
    scene: MemoryScene, share: float, window: int
) -> tuple[list[MemoryScene], list[MemoryScene]]:
    """Parts of a scene to train on, and parts held out for validation.

    Bands of about a window's height, evenly spread: one end of a scene may be all river.

    Args:
        scene: Whole.
        share: Of the rows, to hold out.
        window: Pixels a side.

    Raises:
        UsageError: the share is not between 0 and 1, or leaves no rows on one side.
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
    spans = [scene.rows(start, stop) for start, stop in pairwise(edges)]
    return [part for part in spans[::2] if part.height], spans[1::2]
