"""Segments a scene with a network of a few operations in numpy; prints what it took as JSON.

Words: image, DSM, folder, stride. Run as a process of its own, whose memory is its own.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path

from mfnet_bench.throughput import StubBackend
from mfnet_runtime.pipeline import SegmentOptions
from mfnet_runtime.run import segment_scenes
from mfnet_runtime.scenes import Scene

WHO = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)  # large files are made by a child

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
                "rss": max(resource.getrusage(who).ru_maxrss for who in WHO) << 10,
                "seconds": time.perf_counter() - started,
                "skipped": outcome.report.skipped,
                "windows": outcome.report.windows,
                "blocks": outcome.report.blocks,
            }
        )
    )
