"""What a README says of the GPU: the tables of a committed check, or that there was none."""

from __future__ import annotations

from pathlib import Path

from mfnet_bench.gpu.report import JSON, report_from_folder, scene_table, speed_table
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
    report = report_from_folder(folder)
    if report is None:
        return NEVER
    machine = report.machine
    if "gpu" not in machine:
        raise UsageError(f"{folder / JSON}: no GPU took part in it; a dry run is no result")
    tables = [speed_table(report.speed)] if report.speed else []
    tables += [scene_table(report.scenes)] if report.scenes else []
    facts = ", ".join(f"{name} {machine[name]}" for name in FACTS if name in machine)
    return "\n\n".join([*tables, f"{facts}."])
