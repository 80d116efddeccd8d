"""The loss of a batch of windows, and its class weights."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mfnet.data.scenes import MemoryScene, count_classes
from mfnet.model.network import MFNet
from mfnet.training.sampling import WindowBatch
from mfnet_runtime.errors import UsageError
from mfnet_runtime.labels import IGNORE


def window_loss(
    network: MFNet, batch: WindowBatch, weights: Tensor | None, device: torch.device
) -> Tensor:
    """Return the mean cross-entropy over the labelled pixels of a batch, 0 if none has a weight."""
    image, dsm = torch.from_numpy(batch.image).to(device), torch.from_numpy(batch.dsm).to(device)
    label = torch.from_numpy(batch.label.astype(np.int64)).to(device)
    logits: Tensor = network(image, dsm)
    present = [index for index in np.unique(batch.label).tolist() if index != IGNORE]
    if not any(weights is None or bool(weights[index] > 0) for index in present):
        return logits.sum() * 0.0  # the mean over nothing would be NaN
    return F.cross_entropy(logits.float(), label, weights, ignore_index=IGNORE)


def class_weights(
    rule: str, scenes: Sequence[MemoryScene], classes: int, device: torch.device
) -> Tensor | None:
    """Return the weight of each class in the loss; None weighs all pixels alike, as published.

    Args:
        rule: `none`; `balanced`, one over the square root of the share of a class, mean 1; or the
            weights themselves, "1,2,0.5".
        scenes: Training scenes.
        classes: Number of classes.
        device: Device of the result.

    Raises:
        UsageError: The rule has another number of weights, or they are not usable as weights.
    """
    if rule == "none":
        return None
    if rule == "balanced":
        pixels = np.maximum(count_classes(scenes, classes), 1)
        inverse = 1 / np.sqrt(pixels / pixels.sum())
        return torch.tensor(inverse / inverse.mean(), dtype=torch.float32, device=device)
    try:
        values = [float(part) for part in rule.split(",")]
    except ValueError:
        values = []
    if len(values) != classes or min(values) < 0 or not 0 < sum(values) < float("inf"):
        raise UsageError(
            f"--class-weights {rule!r}: expected none, balanced, or {classes} numbers, "
            "one per class"
        )
    return torch.tensor(values, dtype=torch.float32, device=device)
