"""Segments a scene with a network of a few operations in numpy; prints what it took as JSON.

Words: image, DSM, folder, stride. Run as a process of its own, whose memory is its own.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path

import numpy as np

from mfnet_runtime.backends.base import Arrays, Feed, specs_of
from mfnet_runtime.batch_size import Batches
from mfnet_runtime.contract import Contract
from mfnet_runtime.labels import ClassTable
from mfnet_runtime.pipeline import SegmentOptions
from mfnet_runtime.run import segment_scenes
from mfnet_runtime.scenes import Scene

WINDOW, CLASSES = 256, 6


class StubBackend:
    """The logits of a class are a band, or one of the same array again and again."""

    name = device = precision = "stub"
    threads = 1
    contract = Contract(
        WINDOW, ClassTable(tuple("abcdef"), tuple((40 * i, 0, 0) for i in range(CLASSES)))
    )
    batches = Batches()
    inputs, outputs = specs_of(contract)
    logits = np.zeros((4, CLASSES, WINDOW, WINDOW), np.float32)

    def infer(self, feed: Feed) -> Arrays:
        """Two copies."""
        logits = self.logits[: len(feed["image"])]
        logits[:, :3], logits[:, 3:4] = feed["image"], feed["dsm"]
        return {"logits": logits}

    def __enter__(self) -> StubBackend:
        return self

    def __exit__(self, *raised: object) -> None:
        return None


if __name__ == "__main__":
    image, dsm, out, stride = sys.argv[1:]
    started = time.perf_counter()
    (outcome,) = segment_scenes(
        StubBackend(),
        [Scene("a", Path(image), Path(dsm))],
        Path(out),
        SegmentOptions(int(stride)),
        quiet=True,
    )
    assert outcome.report is not None
    print(
        json.dumps(
            {
                "rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10,
                "seconds": time.perf_counter() - started,
                "skipped": outcome.report.skipped,
                "windows": outcome.report.windows,
                "blocks": outcome.report.blocks,
            }
        )
    )
