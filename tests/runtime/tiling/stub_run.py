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
from mfnet_runtime.run.segment import segment_scenes
from mfnet_runtime.scene.discovery import Scene
from mfnet_runtime.tiling.pipeline import SegmentOptions


def own_peak() -> int:
    """KiB of this process; `ru_maxrss` would also be that of whoever started it."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])


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
                "rss": max(own_peak(), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
                << 10,
                "seconds": time.perf_counter() - started,
                "skipped": outcome.report.skipped,
                "windows": outcome.report.windows,
                "blocks": outcome.report.blocks,
            }
        )
    )
