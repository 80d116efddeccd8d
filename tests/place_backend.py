"""A backend whose logits depend on the place in the window, so that wrong weights are noticed."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import numpy as np
from support import RGBD

from mfnet_runtime.backends.base import Arrays, Batches, Feed, specs_of
from mfnet_runtime.contract import Contract

WINDOW = 32
PLACE = np.random.default_rng(1).normal(0, 0.5, (1, len(RGBD), WINDOW, WINDOW)).astype(np.float32)


@dataclass
class PlaceBackend:
    """Returns its inputs plus a value for each place in the window as logits."""

    name: str = "place"
    device: str = "test"
    precision: str = "fp32"
    threads: int = 1
    contract: Contract = field(default_factory=lambda: Contract(WINDOW, RGBD))
    batches: Batches = field(default_factory=Batches)
    seen: list[int] = field(default_factory=list)
    by_batch: float = 0.0  # added to logits for each other window of the call
    seconds: float = 0.0  # of a call

    def __post_init__(self) -> None:
        self.inputs, self.outputs = specs_of(self.contract)

    def infer(self, feed: Feed) -> Arrays:
        count = len(feed["image"])
        self.seen.append(count)
        logits = np.concatenate([feed["image"], feed["dsm"]], axis=1) + PLACE
        others = np.arange(count, dtype=np.float32) + count - 1
        logits[:, 0] += np.float32(self.by_batch) * others[:, None, None]
        time.sleep(self.seconds)
        return {"logits": logits}

    def __enter__(self) -> PlaceBackend:
        return self

    def __exit__(self, *raised: object) -> None:
        return None
