"""`--recipe paper` against the published training loop, written down here from its description."""

from __future__ import annotations

import copy
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support import UTM, read, write_raster, write_scene
from torch import Tensor

from mfnet.cli import main as train
from mfnet.config import config_from_preset
from mfnet.data.datasets import dataset_from_folder
from mfnet.data.labels import read_label
from mfnet.data.scenes import load_scene
from mfnet.model.network import MFNet
from mfnet.training.loss import window_loss
from mfnet.training.options import TrainConfig, TrainRequest
from mfnet.training.run_directory import RunDirectory
from mfnet.training.sampling import PublishedSampler
from mfnet.training.train import Trainer
from mfnet_runtime.contract import Contract
from mfnet_runtime.errors import UsageError
from mfnet_runtime.labels import ClassTable

SIDE, STEPS, BATCH, SEED = 64, 20, 2, 7
PAPER = TrainConfig(epochs=1, steps=STEPS, batch=BATCH, seed=SEED, recipe="paper")
Windows = tuple[Tensor, Tensor, Tensor]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    for index, (height, width) in enumerate(((90, 100), (70, 120))):
        write_scene(folder, f"s{index}", height, width, seed=index, label=True)
    return folder


def published_windows(folder: Path) -> list[Windows]:
    """Draw the batches of the published data set and loader, after `random.seed`."""
    scenes: list[tuple[Any, Any, Any]] = []
    for name in ("s0", "s1"):
        image = np.float32(1 / 255) * read(folder / f"image/{name}.tif", None).astype(np.float32)
        dsm = read(folder / f"dsm/{name}.tif").astype(np.float32)
        dsm = (dsm - dsm.min()) / (dsm.max() - dsm.min())
        scenes.append((image, dsm, read(folder / f"label/{name}.tif").astype(np.int64)))
    random.seed(SEED)

    def window() -> list[Any]:
        image, dsm, label = scenes[random.randint(0, len(scenes) - 1)]
        top = random.randint(0, image.shape[-2] - SIDE - 1)
        left = random.randint(0, image.shape[-1] - SIDE - 1)
        vertical, horizontal = random.random() < 0.5, random.random() < 0.5
        parts = [part[..., top : top + SIDE, left : left + SIDE] for part in (image, dsm, label)]
        parts = [part[..., ::-1, :] if vertical else part for part in parts]
        return [part[..., ::-1] if horizontal else part for part in parts]

    batches: list[Windows] = []
    for _ in range(STEPS):
        kinds = list(zip(*(window() for _ in range(BATCH)), strict=True))
        first, second, third = (torch.from_numpy(np.stack(kind)) for kind in kinds)
        batches.append((first, second, third))
    return batches


def published_losses(network: MFNet, batches: list[Windows]) -> list[float]:
    """Train with plain SGD and the mean cross-entropy over all pixels, weights of one."""
    optimizer = torch.optim.SGD(network.parameters(), 0.01, momentum=0.9, weight_decay=0.0005)
    network.train()
    losses = []
    for image, dsm, label in batches:
        optimizer.zero_grad()
        logits = network(image, dsm[:, None])
        flat = logits.flatten(2).transpose(1, 2).reshape(-1, logits.shape[1])
        loss = F.cross_entropy(flat, label.reshape(-1), torch.ones(logits.shape[1]))
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def test_windows_and_losses_of_the_published_loop(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = dataset_from_folder(folder)
    scenes = [load_scene(scene, dataset, 255) for scene in dataset.train]
    contract = Contract(SIDE, dataset.classes)
    batches = published_windows(folder)
    sampler = PublishedSampler(scenes, contract, PAPER)
    for step, (image, dsm, label) in enumerate(batches):
        found = sampler.windows(0, step)
        np.testing.assert_allclose(found.image, image, atol=1e-6)
        np.testing.assert_allclose(found.dsm[:, 0], dsm, atol=1e-6)
        np.testing.assert_array_equal(found.label, label)
    again = PublishedSampler(scenes, contract, PAPER)  # as after --resume
    for step in (7, 3, 4):
        np.testing.assert_array_equal(again.windows(0, step).label, batches[step][2])

    torch.manual_seed(0)
    classes = len(dataset.classes)
    network = MFNet(config_from_preset("tiny", classes=classes, window=SIDE, tuning="adapter"))
    other = copy.deepcopy(network)
    torch.manual_seed(SEED)
    expected = published_losses(other, batches)
    losses: list[float] = []

    def record(*given: Any) -> Tensor:
        loss = window_loss(*given)
        losses.append(float(loss.detach()))
        return loss

    monkeypatch.setattr("mfnet.training.train.window_loss", record)
    directory = RunDirectory(tmp_path / "run")
    trainer = Trainer(network, contract, PAPER, scenes, lambda: [], directory, {})
    trainer._train_epoch()
    np.testing.assert_allclose(losses, expected, atol=1e-5)
    assert losses[-1] < losses[0]


def test_scenes_must_be_larger_than_windows(folder: Path) -> None:
    dataset = dataset_from_folder(folder)
    scenes = [load_scene(scene, dataset, 255) for scene in dataset.train]
    with pytest.raises(UsageError, match=r"'s0' is 100 x 90 px; --recipe paper cuts windows of 96"):
        PublishedSampler(scenes, Contract(96, dataset.classes), PAPER)


def test_stray_colours_are_the_first_class(tmp_path: Path) -> None:
    classes = ClassTable(("a", "b"), ((255, 255, 255), (0, 0, 255)))
    rgb = np.zeros((3, 20, 20), np.uint8)
    rgb[2, :10] = 255
    rgb[:, 5, 5] = (1, 2, 3)
    path = write_raster(tmp_path / "label.tif", rgb, **UTM)
    assert read_label(path, "colour", classes)[5, 5] == 255
    label = read_label(path, "colour", classes, stray=0)
    assert (label[5, 5], label[0, 0], label[15, 0]) == (0, 1, 255)


def test_the_command(folder: Path, tmp_path: Path) -> None:
    words = "--from-scratch --backbone tiny --tuning adapter --window 32 --epochs 1 --steps 1"
    words += f" --batch 2 --val {folder}"
    out = tmp_path / "run"
    assert train([str(folder), "-o", str(out), "--recipe", "paper", *words.split()]) == 0
    saved = torch.load(out / "best.pt", weights_only=True)
    assert saved["training"]["config"]["recipe"] == "paper"
    assert saved["training"]["config"]["mixed_precision"] is False
    assert saved["training"]["rel_pos"] == "trained"  # without SAM's file there are no tables
    words += " --rotations"
    assert train([str(folder), "-o", str(tmp_path / "b"), "--recipe", "paper", *words.split()]) == 2


@pytest.mark.parametrize(
    ("words", "backbone", "zero", "mixed"),
    [
        ([], "vit_b", False, True),
        (["--recipe", "paper"], "vit_l", True, False),
        (["--backbone", "vit_h", "--recipe", "paper"], "vit_h", True, False),
    ],
)
def test_the_defaults_that_the_recipe_changes(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    backbone: str,
    zero: bool,
    mixed: bool,
) -> None:
    def prepare(request: TrainRequest, recipe: TrainConfig, *_: object) -> None:
        assert (request.backbone, request.zero_rel_pos) == (backbone, zero)
        assert recipe.mixed_precision == mixed
        raise UsageError("as far as this test goes")

    monkeypatch.setattr("mfnet.training.prepare.prepare_training", prepare)
    assert train(["scenes", "-o", str(tmp_path), "--sam", "sam.pth", *words]) == 2
