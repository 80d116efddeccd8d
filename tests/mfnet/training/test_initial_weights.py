"""The weights of a run with `--init`: those of a checkpoint, and a new head for other classes."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from networks import official_state, random_network, write_checkpoint
from support import write_scene

from mfnet.checkpoints.checkpoint import load_checkpoint, save_checkpoint
from mfnet.cli import main
from mfnet.model.network import MFNet
from mfnet.training.initial_weights import InitialWeights
from mfnet.training.options import TrainRequest
from mfnet_runtime.contract import Contract, ImageRule
from mfnet_runtime.errors import ModelError, UsageError
from mfnet_runtime.labels import ClassTable

HEAD = "decoder.segmentation_head.2.0.weight"


def request(init: Path, **more: Any) -> TrainRequest:
    return TrainRequest(init.parent, init.parent / "run", init=init, window=64, **more)


def contract(classes: int, **more: Any) -> Contract:
    return Contract(64, ClassTable.numbered(classes), **more)


@pytest.mark.parametrize("classes", [3, 5])
def test_all_weights_but_a_head_of_other_classes(
    tmp_path: Path, classes: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    path = write_checkpoint(tmp_path / "best.pt", 32, classes=3)
    initial = InitialWeights.of(request(path), classes)
    assert (initial.config.classes, initial.config.window) == (classes, 64)
    network = MFNet(initial.config)
    facts = initial.load(network, contract(classes))
    assert (facts["init"], facts["sam"]) == ("best.pt", "unknown")
    expected = load_checkpoint(path).weights
    found = network.state_dict()
    differ = [name for name, tensor in found.items() if not torch.equal(tensor, expected[name])]
    assert differ == ([] if classes == 3 else [HEAD])
    assert (f"best.pt has 3 classes, the data 5: the head ({HEAD}) is new" in caplog.text) == (
        classes == 5
    )
    frozen = [name for name, p in network.named_parameters() if not p.requires_grad]
    assert frozen
    assert all(name.startswith("encoder.sam.") for name in frozen)


def test_official_weights(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, source = tmp_path / "epoch37_0.84", random_network("adapter", classes=6)
    torch.save({"state_dict": official_state(source)}, path)
    initial = InitialWeights.of(request(path), 6)
    network = MFNet(initial.config)
    initial.load(network, contract(6, image=ImageRule(("near infrared", "red", "green"))))
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, source.state_dict()[name]), name
    assert "its head is kept; its classes were impervious surface, building" in caplog.text
    assert "image was {'bands': ['red', 'green', 'blue']" in caplog.text


@pytest.mark.parametrize(("before", "warned"), [(0.25, True), (0.4, False), (None, False)])
def test_pixels_of_another_size(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, before: float | None, warned: bool
) -> None:
    path = write_checkpoint(tmp_path / "best.pt", 64, classes=3)
    found = load_checkpoint(path)
    save_checkpoint(path, replace(found, contract=replace(found.contract, pixel_size=before)))
    initial = InitialWeights.of(request(path), 3)
    initial.load(MFNet(initial.config), contract(3, pixel_size=0.5))
    text = "was trained on pixels of 0.25 m, the data has 0.5 m; consider --resample-to"
    assert (text in caplog.text) == warned


def test_the_checkpoint_fixes_the_network(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "best.pt", 64, classes=3)
    for given in ({"backbone": "small"}, {"tuning": "adapter"}, {"rank": 8}):
        (option,) = given
        with pytest.raises(UsageError, match=rf"--{option} .*best\.pt, which fixes it; leave it"):
            InitialWeights.of(request(path, **given), 3)
    InitialWeights.of(request(path, backbone="tiny"), 3)
    with pytest.raises(UsageError, match="those of a trained MFNet with --init CHECKPOINT"):
        InitialWeights.of(request(path, from_scratch=True), 3)
    torch.save({"state_dict": {}}, path)
    with pytest.raises(ModelError, match="the keys 'state_dict'"):
        InitialWeights.of(request(path), 3)


def test_a_run_starts_from_a_run(tmp_path: Path) -> None:
    write_scene(tmp_path / "scenes", "a", 64, 64, label=True)
    first = write_checkpoint(tmp_path / "best.pt", 32, classes=3)
    words = (
        "--window 32 --stride 32 --epochs 1 --steps 1 --batch 2 --lr 1e-9 --threads 1 --device cpu"
    )
    run = [str(tmp_path / "scenes"), "-o", str(tmp_path / "run"), "--init", str(first)]
    assert main([*run, *words.split()]) == 0
    found, given = load_checkpoint(tmp_path / "run" / "best.pt"), load_checkpoint(first)
    assert found.contract.provenance["init"] == "best.pt"
    assert found.config.classes == 4
    for name, tensor in found.weights.items():
        if "running" not in name and "batches" not in name and name != HEAD:
            torch.testing.assert_close(tensor, given.weights[name], atol=1e-6, rtol=0)
