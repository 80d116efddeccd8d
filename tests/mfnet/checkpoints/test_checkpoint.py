from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from networks import random_network, random_windows, reference_state, references

from mfnet.checkpoints.checkpoint import (
    Checkpoint,
    load_checkpoint,
    load_resume,
    network_from_checkpoint,
    save_checkpoint,
)
from mfnet.config import config_from_preset
from mfnet_runtime.contract import Contract
from mfnet_runtime.errors import ModelError, ResourceError, UsageError
from mfnet_runtime.labels import ISPRS, MMHUNAN, ClassTable

TINY = config_from_preset("tiny", classes=3, window=32).to_dict()


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    network = random_network("lora", window=32)
    return Checkpoint(
        config=network.config,
        contract=Contract(window=32, classes=ClassTable.numbered(3)),
        weights=network.state_dict(),
        training={"epochs": 2, "sam": {"file": "sam.pth", "zero_rel_pos": True}},
        metrics={"miou": 0.5},
    )


def test_checkpoint_survives_the_file(tmp_path: Path, checkpoint: Checkpoint) -> None:
    path = tmp_path / "best.pt"
    save_checkpoint(path, checkpoint)
    loaded = load_checkpoint(path)
    for name in ("config", "contract", "training", "metrics"):
        assert getattr(loaded, name) == getattr(checkpoint, name)
    network = network_from_checkpoint(loaded)
    assert not network.training
    expected = network_from_checkpoint(checkpoint)
    windows = random_windows(1, 32, torch.float32)
    with torch.no_grad():
        assert torch.equal(network(*windows), expected(*windows))
    assert os.listdir(tmp_path) == ["best.pt"]
    view = {"a": torch.zeros(10**6)[:2]}  # saved without the storage behind it
    save_checkpoint(path, dataclasses.replace(checkpoint, weights=view))
    assert path.stat().st_size < 10**5
    with pytest.raises(TypeError):
        save_checkpoint(path, dataclasses.replace(checkpoint, training={"path": tmp_path}))


def test_resume_state_is_optional(tmp_path: Path, checkpoint: Checkpoint) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint(path, checkpoint)
    with pytest.raises(UsageError, match="no training state"):
        load_resume(path)
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([weight], lr=0.01, momentum=0.9)
    weight.grad = torch.ones(2)
    optimizer.step()
    state = {"optimizer": optimizer.state_dict(), "epoch": 3, "rng": torch.get_rng_state()}
    save_checkpoint(path, checkpoint, resume=state)
    resumed = load_resume(path)
    assert resumed["epoch"] == 3
    optimizer.load_state_dict(resumed["optimizer"])
    assert load_checkpoint(path).metrics == {"miou": 0.5}


def test_failed_save_leaves_the_old_file(
    tmp_path: Path, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "best.pt"
    save_checkpoint(path, checkpoint)
    before = path.read_bytes()

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResourceError, match="No space left"):
        save_checkpoint(path, checkpoint)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["best.pt"]
    with pytest.raises(UsageError, match="not a folder"):
        save_checkpoint(tmp_path / "absent" / "best.pt", checkpoint)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full to fail every write")
def test_a_disk_that_fills_up_midway_is_a_resource_error(
    tmp_path: Path, checkpoint: Checkpoint
) -> None:
    (tmp_path / f".best.pt.{os.getpid()}.tmp").symlink_to("/dev/full")
    with pytest.raises(ResourceError, match="free space"):
        save_checkpoint(tmp_path / "best.pt", checkpoint)
    assert os.listdir(tmp_path) == []


@references
def test_official_file_is_a_checkpoint(name: str, tmp_path: Path) -> None:
    path = tmp_path / "official.pth"
    torch.save(reference_state(name), path)
    loaded = load_checkpoint(path)
    assert (loaded.contract.window, loaded.contract.provenance) == (256, {"source": "official"})
    tables = {5: ClassTable.numbered(5), 6: ISPRS, 7: MMHUNAN}
    assert loaded.contract.classes == tables[loaded.config.classes]
    assert load_checkpoint(path, window=512).config.window == 512


def test_other_files_are_named_for_what_they_are(tmp_path: Path) -> None:
    path = tmp_path / "official.pth"
    part = {"image_encoder.pos_embed": torch.zeros(1)}
    torch.save({**part, "decoder.x": torch.zeros(1)}, path)
    with pytest.raises(ModelError, match=r"official\.pth: official checkpoint: .*; copy it again"):
        load_checkpoint(path)
    torch.save(part, path)
    with pytest.raises(ModelError, match="holds SAM's own weights"):
        load_checkpoint(path)


@pytest.mark.parametrize("load", [load_checkpoint, load_resume])
def test_paths_and_content_that_are_no_checkpoint(tmp_path: Path, load: Any) -> None:
    """Damaged files are rows M1 to M4 of the fault matrix."""
    path = tmp_path / "best.pt"
    path.write_bytes(b"\x80\x02}q\x00.")  # an empty dict
    with pytest.raises(ModelError, match=r"best\.pt"):
        load(path)
    for missing in (tmp_path / "absent.pt", tmp_path):
        with pytest.raises(UsageError, match="not a file"):
            load(missing)


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"format": "mfnet-checkpoint/9"}, "mfnet-checkpoint/9"),
        ({"config": None}, "configuration is NoneType"),
        ({"config": {**TINY, "tuning": "prompt"}}, "'prompt' is not one of adapter, lora, none"),
        ({"contract": {}}, "contract has format None"),
        ({"weights": {}}, "not named tensors"),
        ({"weights": {"a": 1}}, "'a' is not a dense tensor"),
        ({"weights": {"a": torch.zeros(3, 3).to_sparse()}}, "'a' is not a dense tensor"),
        ({"weights": {"a": torch.zeros(3, device="meta")}}, "'a' is not a dense tensor"),
        ({"training": []}, "'training' is list"),
        ({"contract": Contract(32, ClassTable.numbered(4)).to_dict()}, "names 4 classes"),
        ({"contract": Contract(64, ClassTable.numbered(3)).to_dict()}, "windows of 64 px"),
    ],
)
def test_files_that_contradict_themselves_are_refused(
    tmp_path: Path, checkpoint: Checkpoint, change: dict[str, Any], part: str
) -> None:
    path = tmp_path / "best.pt"
    save_checkpoint(path, checkpoint)
    torch.save({**torch.load(path, weights_only=True), **change}, path)
    with pytest.raises(ModelError, match=part) as caught:
        load_checkpoint(path)
    assert str(path) in str(caught.value)
    assert "; " in str(caught.value) or ": give" in str(caught.value)  # a remedy


def test_weights_are_loaded_strictly(checkpoint: Checkpoint) -> None:
    weights = dict(checkpoint.weights)
    del weights["decoder.p3.weights"]
    weights["extra"] = torch.zeros(1)
    weights["decoder.p2.weights"] = torch.zeros(3)
    with pytest.raises(ModelError, match="3 tensors") as caught:
        network_from_checkpoint(dataclasses.replace(checkpoint, weights=weights))
    for part in ("p3.weights is missing", "extra is (1,), expected none", "(3,), expected (2,)"):
        assert part in str(caught.value)
    with pytest.raises(ModelError, match=r"is missing, expected \(.*; \.\.\.$") as caught:
        network_from_checkpoint(dataclasses.replace(checkpoint, weights={}))
    assert str(caught.value).count("missing") == 5
    infinite = {**checkpoint.weights, "decoder.p2.weights": torch.tensor([1.0, float("inf")])}
    with pytest.raises(ModelError, match=r"NaN or infinities \(1 tensors\): decoder.p2.weights"):
        network_from_checkpoint(dataclasses.replace(checkpoint, weights=infinite))
