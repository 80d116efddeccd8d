"""What a README says of the GPU: the tables of a committed check, or that there was none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mfnet_bench.gpu.report import JSON, scene_table, speed_table
from mfnet_bench.gpu.scene import SceneRow
from mfnet_bench.gpu.speed import SpeedRow
from mfnet_runtime.errors import UsageError

MARK = "gpu"  # of its place in a document
NEVER = """\
**No GPU has run any of this yet**: the machines it was built and tested on have none. How fast it
runs there is unknown, so no number is given; `benchmarks/gpu_check.py` measures it at once."""
FACTS = ("gpu", "driver", "tensorrt", "date")


def summary_from_folder(folder: Path) -> str:
    """Markdown for the results in a folder; `NEVER` where there are none.

    Raises:
        UsageError: the results are damaged, or of a dry run.
    """
    path = folder / JSON
    if not path.is_file():
        return NEVER
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        speed = [SpeedRow(**row) for row in found["speed"]]
        scenes = [SceneRow(**row) for row in found["scenes"]]
        machine = found["machine"]
    except (KeyError, TypeError, ValueError) as fault:
        raise UsageError(f"{path}: damaged ({fault!r}); run gpu_check.py again") from fault
    if "gpu" not in machine:
        raise UsageError(f"{path}: no GPU took part in it; a dry run is no result")
    tables = [speed_table(speed)] if speed else []
    tables += [scene_table(scenes)] if scenes else []
    facts = ", ".join(f"{name} {machine[name]}" for name in FACTS if name in machine)
    return "\n\n".join([*tables, f"{facts}."])
