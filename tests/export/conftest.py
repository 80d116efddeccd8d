"""A tiny checkpoint and its export by the command, made once per worker."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from networks import random_network, use_export

import mfnet_export.graph.export
import mfnet_export.rewrites.steps
from mfnet.checkpoints.checkpoint import Checkpoint, save_checkpoint
from mfnet.model.network import MFNet
from mfnet_export.cli import main
from mfnet_runtime.contract import Contract
from mfnet_runtime.labels import ClassTable

CLASSES = ClassTable(("ground", "tree", "car"), ((90, 80, 70), (0, 255, 0), (255, 0, 0)))


@dataclass(frozen=True)
class Made:
    """A checkpoint, the file exported from it and the report of the command."""

    network: MFNet
    checkpoint: Path
    onnx: Path
    contract: Contract  # of the checkpoint
    report: dict[str, Any]  # of --json


def count_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give every network one GFLOP: counting them takes seconds."""
    monkeypatch.setattr(mfnet_export.rewrites.steps, "gflop_from_network", lambda _: 1.0)


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("made")
    network = random_network("lora", window=64)
    contract = Contract(64, CLASSES).with_provenance(dataset="town")
    checkpoint = Checkpoint(
        config=network.config,
        contract=contract,
        weights=network.state_dict(),
        training={"epochs": 2, "sam": {"file": "sam.pth", "zero_rel_pos": True}},
        metrics={"mean_iou": 0.5},
    )
    path = folder / "best.pt"
    save_checkpoint(path, checkpoint)
    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.MonkeyPatch.context() as patch,
    ):
        count_nothing(patch)
        code = main(["--ckpt", str(path), "--json"])
    assert code == 0, err.getvalue()
    return Made(network, path, folder / "best.onnx", contract, json.loads(out.getvalue()))


@pytest.fixture
def best(made: Made, tmp_path: Path) -> Path:
    """The checkpoint alone in a folder."""
    return Path(shutil.copy(made.checkpoint, tmp_path / "best.pt"))


@pytest.fixture
def above_2_gib(monkeypatch: pytest.MonkeyPatch) -> None:
    """Treat any weights as too large for an ONNX file."""
    monkeypatch.setattr(mfnet_export.graph.export, "EXTERNAL_ABOVE", 0)


@pytest.fixture
def cheap(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """Export that checkpoint by a copy of its file."""
    count_nothing(monkeypatch)
    use_export(monkeypatch, lambda path: shutil.copy(made.onnx, path))
