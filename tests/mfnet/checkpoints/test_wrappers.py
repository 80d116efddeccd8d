from __future__ import annotations

import argparse
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from networks import random_network
from torch import Tensor

from mfnet.checkpoints.checkpoint import load_checkpoint
from mfnet.checkpoints.torch_file import read_torch_file
from mfnet.checkpoints.wrappers import find_weights
from mfnet_runtime.errors import ModelError

Weights = dict[str, Tensor]
FILE = Path("best.pth")
NAME = "image_encoder.pos_embed"
WEIGHTS = {NAME: torch.ones(2), "decoder.x": torch.zeros(1)}
SCORES = {
    "best": np.float64(0.84),
    "history": np.arange(3.0),
    "random": np.random.RandomState(0).get_state(),
    "args": argparse.Namespace(out=Path("runs")),
}


def prefixed(weights: Weights, prefix: str) -> Weights:
    return {prefix + name: tensor for name, tensor in weights.items()}


@pytest.mark.parametrize("key", ["state_dict", "model", "model_state_dict", "net", "weights"])
@pytest.mark.parametrize("prefix", ["", "module.", "net.", "model.", "module._orig_mod.", "ema."])
def test_keys_and_prefixes_are_taken_off(key: str, prefix: str) -> None:
    weights = prefixed(WEIGHTS, prefix)
    found = find_weights(
        {"epoch": 3, "optimizer": {"state": {0: torch.zeros(1)}}, key: weights}, FILE
    )
    assert found is not None
    assert found.keys() == WEIGHTS.keys()
    assert torch.equal(found[NAME], WEIGHTS[NAME])


@pytest.mark.parametrize(
    "data",
    [
        {**prefixed(WEIGHTS, "module."), "n_averaged": torch.tensor(4)},  # AveragedModel
        {"state_dict": {**prefixed(WEIGHTS, "net."), "criterion.weight": torch.ones(6)}},
        {"image_encoder": {"pos_embed": WEIGHTS[NAME]}, "decoder": {"x": torch.zeros(1)}},
        {"image_encoder._orig_mod.pos_embed": WEIGHTS[NAME], "decoder.x": torch.zeros(1)},
        {**WEIGHTS, f"sam.{NAME}": torch.zeros(2)},
        {"ema": {NAME: torch.zeros(2)}, "state_dict": WEIGHTS},
    ],
)
def test_the_network_is_found_beside_others(data: Any) -> None:
    found = find_weights(data, FILE)
    assert found is not None
    assert torch.equal(found[NAME], WEIGHTS[NAME])
    assert "decoder.x" in found
    assert not {"n_averaged", "criterion.weight"} & found.keys()


def test_nothing_is_found_in_other_data() -> None:
    circle: dict[str, Any] = {"a": torch.ones(1)}
    circle["b"] = circle
    for data in (circle, [WEIGHTS], 3, {}):
        assert find_weights(data, FILE) is None


def test_scores_of_numpy_beside_the_weights_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "best.pth"
    torch.save({"state_dict": WEIGHTS, **SCORES}, path)
    found = find_weights(read_torch_file(path, "copy it again"), path)
    assert found is not None
    assert found.keys() == WEIGHTS.keys()


@pytest.mark.parametrize("save", [{}, {"_use_new_zipfile_serialization": False}])
def test_any_other_object_is_refused_by_name(tmp_path: Path, save: Any) -> None:
    path = tmp_path / "best.pth"
    torch.save({"state_dict": WEIGHTS, "step": Fraction(1, 2)}, path, **save)
    said = r"best\.pth holds more than .*, fractions\.Fraction, which .*; save the state_dict"
    with pytest.raises(ModelError, match=said) as caught:
        read_torch_file(path, "copy it again")
    assert str(caught.value).isprintable()


def test_safetensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save: Callable[..., None] = pytest.importorskip("safetensors.torch").save_file
    path = tmp_path / "best.safetensors"
    save(prefixed(WEIGHTS, "module."), path)
    found = find_weights(read_torch_file(path, "copy it again"), path)
    assert found is not None
    assert torch.equal(found[NAME], WEIGHTS[NAME])
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ModelError, match=r"best\.safetensors is damaged .*; copy it again"):
        read_torch_file(path, "copy it again")


def test_files_without_a_network_name_their_keys(tmp_path: Path) -> None:
    path = tmp_path / "best.pth"
    torch.save({"generator\x1b[1m": random_network("none").decoder.state_dict(), "step": 3}, path)
    with pytest.raises(ModelError, match=r"holds the keys 'generator\\x1b\[1m'; 'step'; expected"):
        load_checkpoint(path)
