"""The case checkpoint-wrappers: official weights and SAM's as users save them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from networks import random_network, reference_state
from support import SHARED

from mfnet.checkpoints.checkpoint import checkpoint_from_official, load_checkpoint
from mfnet.checkpoints.sam_weights import load_sam_weights

CASE = SHARED / "cases" / "checkpoint-wrappers"
pytestmark = pytest.mark.skipif(not CASE.is_dir(), reason=f"no case {CASE}")


def test_official_weights_however_they_are_saved(tmp_path: Path) -> None:
    subprocess.run([sys.executable, CASE / "make.py", tmp_path], check=True)
    expected = checkpoint_from_official(reference_state("lora_zero_relpos"))
    files = sorted(tmp_path.glob("*.pth"))
    assert len(files) == 7
    for path in files:
        found = load_checkpoint(path)
        assert (found.config, found.contract) == (expected.config, expected.contract), path
        assert found.weights.keys() == expected.weights.keys()
        for name, tensor in found.weights.items():
            assert torch.equal(tensor, expected.weights[name]), (path, name)


def test_sam_weights_under_a_key() -> None:
    found = []
    for name in ("sam_tiny.pth", "sam_tiny_model_key.pth"):
        encoder = random_network("lora").encoder
        load_sam_weights(encoder, CASE / name)
        found.append(encoder.sam.state_dict())
    plain, under_a_key = found
    assert all(torch.equal(tensor, under_a_key[name]) for name, tensor in plain.items())
