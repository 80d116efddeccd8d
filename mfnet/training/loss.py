"""The loss of a batch of windows, and the class weights it may use."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mfnet.data.scene_data import MemoryScene, class_counts
from mfnet.model.network import MFNet
from mfnet.training.sampling import WindowBatch
from mfnet_runtime.errors import UsageError
from mfnet_runtime.labels import IGNORE


def window_loss(
    network: MFNet, batch: WindowBatch, weights: Tensor | None, device: torch.device
) -> Tensor:
    """Mean cross-entropy over the labelled pixels of a batch; 0 where none of them counts."""
    image, dsm = torch.from_numpy(batch.image).to(device), torch.from_numpy(batch.dsm).to(device)
    label = torch.from_numpy(batch.label.astype(np.int64)).to(device)
    logits: Tensor = network(image, dsm)
    if not _counts(batch, weights):  # the mean of nothing is not a number
        return logits.sum() * 0.0
    return F.cross_entropy(logits.float(), label, weights, ignore_index=IGNORE)


def _counts(batch: WindowBatch, weights: Tensor | None) -> bool:
    """Whether any pixel is labelled with a class of positive weight."""
    present = [index for index in np.unique(batch.label).tolist() if index != IGNORE]
    return any(weights is None or bool(weights[index] > 0) for index in present)


def class_weights(
    rule: str, scenes: Sequence[MemoryScene], classes: int, device: torch.device
) -> Tensor | None:
    """Weight of each class in the loss.

    `none` weighs pixels alike, as published; `balanced` weighs a class by one over the square
    root of its share, mean 1; a list gives the weights themselves, "1,2,0.5".

    Raises:
        UsageError: a list of another length, or of numbers that cannot be weights.
    """
    if rule == "none":
        return None
    if rule == "balanced":
        pixels = np.maximum(class_counts(scenes, classes), 1)
        inverse = 1 / np.sqrt(pixels / pixels.sum())
        return torch.tensor(inverse / inverse.mean(), dtype=torch.float32, device=device)
    try:
        values = [float(part) for part in rule.split(",")]
    except ValueError:
        values = []
    if len(values) != classes or min(values) < 0 or not 0 < sum(values) < float("inf"):
        raise UsageError(
            f"--class-weights {rule!r}: expected none, balanced, or {classes} numbers, one a class"
        )
    return torch.tensor(values, dtype=torch.float32, device=device)
