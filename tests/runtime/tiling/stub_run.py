"""Segment a scene with a network of a few numpy operations; print memory and counts as JSON.

Arguments: image, DSM, output folder. Runs as a process of its own to measure its memory.
"""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path

from mfnet_bench.throughput import StubBackend
from mfnet_runtime.run.segment import segment_scenes
from mfnet_runtime.scene.discovery import Scene
from mfnet_runtime.tiling.pipeline import SegmentOptions


def own_peak() -> int:
    """KiB of this process; `ru_maxrss` would include the peak of its parent before the fork."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])


if __name__ == "__main__":
    image, dsm, out = sys.argv[1:]
    (outcome,) = segment_scenes(
        StubBackend(),
        [Scene("a", Path(image), Path(dsm))],
        Path(out),
        SegmentOptions(256),
        quiet=True,
    )
    assert outcome.report is not None
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    print(
        json.dumps(
            {
                "rss": max(own_peak(), children) << 10,
                "skipped": outcome.report.skipped,
                "windows": outcome.report.windows,
                "blocks": outcome.report.blocks,
            }
        )
    )
