"""A checkpoint of random weights, to measure networks that nobody has trained.

    python -m mfnet_bench.random_checkpoint vit_b lora vit_b_lora.pt

Its speed is that of a trained network; its classes mean nothing.
"""

from __future__ import annotations

from pathlib import Path

import click
import torch

from mfnet.checkpoints.checkpoint import Checkpoint, save_checkpoint
from mfnet.config import PRESETS, config_from_preset
from mfnet.model.network import MFNet
from mfnet_runtime.contract import Contract
from mfnet_runtime.labels import ClassTable

CLASSES = 6  # as in the published data sets
WINDOW = 256  # pixels a side
SEED = 0


def write_random_checkpoint(
    path: Path, preset: str, tuning: str, window: int = WINDOW, classes: int = CLASSES
) -> Path:
    """Write a checkpoint in which no parameter of the tuning is zero, and return its path."""
    torch.manual_seed(SEED)
    network = MFNet(config_from_preset(preset, classes=classes, window=window, tuning=tuning))
    with torch.no_grad():
        for parameter in network.encoder.tuning.parameters():
            if parameter.ndim == 2 and not parameter.any():
                parameter.normal_(std=0.02)
    contract = Contract(window, ClassTable.numbered(classes))
    save_checkpoint(path, Checkpoint(network.config, contract, network.eval().state_dict()))
    return path


@click.command()
@click.argument("preset", type=click.Choice(list(PRESETS)))
@click.argument("tuning")
@click.argument("path", type=click.Path(path_type=Path))
def main(preset: str, tuning: str, path: Path) -> None:
    """Write PATH, a network of PRESET with TUNING and random weights."""
    write_random_checkpoint(path, preset, tuning)


if __name__ == "__main__":
    main()
