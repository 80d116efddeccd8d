"""What a GPU check found, as JSON, CSV and Markdown, and back. Runs nothing."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from mfnet_bench.gpu.scene import SceneRow
from mfnet_bench.gpu.speed import SpeedRow
from mfnet_bench.table import markdown_table
from mfnet_runtime.errors import UsageError
from mfnet_runtime.files import replace_text

DONE, NOT_RUN, FAILED = "done", "not run", "failed"
JSON = "gpu.json"


@dataclass
class StepResult:
    """What became of a step for one network, or for the device."""

    step: str
    network: str  # empty: of the device
    status: str  # DONE, NOT_RUN or FAILED
    seconds: float = 0.0
    why: str | None = None  # it did not run, or failed
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass
class CheckReport:
    """Everything found so far; grows from step to step."""

    started: str  # UTC, to the second
    machine: dict[str, Any]
    steps: list[StepResult] = field(default_factory=list)
    speed: list[SpeedRow] = field(default_factory=list)
    scenes: list[SceneRow] = field(default_factory=list)

    @property
    def failed(self) -> list[StepResult]:
        """Steps that ran and did not hold."""
        return [step for step in self.steps if step.status == FAILED]

    @property
    def left_out(self) -> list[StepResult]:
        """Steps that need what this machine lacks."""
        return [step for step in self.steps if step.status == NOT_RUN]

    def forget(self, step: str, network: str) -> None:
        """Drop what a step found before: it runs anew."""
        self.steps = [old for old in self.steps if (old.step, old.network) != (step, network)]
        if step == "speed":
            self.speed = [row for row in self.speed if row.network != network]
        if step == "scene":
            self.scenes = [row for row in self.scenes if row.network != network]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "started": self.started,
            "machine": self.machine,
            "steps": [vars(step) for step in self.steps],
            "speed": [row.to_dict() for row in self.speed],
            "scenes": [row.to_dict() for row in self.scenes],
        }


def write_report(folder: Path, report: CheckReport) -> None:
    """`JSON` with everything, `gpu.csv` with a row an engine and batch, `gpu.md`."""
    folder.mkdir(parents=True, exist_ok=True)
    text = io.StringIO()
    columns = [column.name for column in fields(SpeedRow)]
    table = csv.DictWriter(text, columns, lineterminator="\n")
    table.writeheader()
    table.writerows(row.to_dict() for row in report.speed)
    replace_text(folder / JSON, json.dumps(report.to_dict(), indent=1) + "\n")
    replace_text(folder / "gpu.csv", text.getvalue())
    replace_text(folder / "gpu.md", markdown(report) + "\n")


def report_from_folder(folder: Path) -> CheckReport | None:
    """What `write_report` wrote there; None where it wrote nothing.

    Raises:
        UsageError: it is damaged, or of another version.
    """
    path = folder / JSON
    if not path.is_file():
        return None
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return CheckReport(
            found["started"],
            dict(found["machine"]),
            [StepResult(**step) for step in found["steps"]],
            [SpeedRow(**row) for row in found["speed"]],
            [SceneRow(**row) for row in found["scenes"]],
        )
    except (KeyError, TypeError, ValueError) as fault:
        raise UsageError(f"{path}: damaged ({fault!r}); remove it and run gpu_check.py") from fault


def markdown(report: CheckReport) -> str:
    """Steps, times and scenes as tables, and what they are true of."""
    parts = [_steps(report.steps)]
    if report.speed:
        parts.append(speed_table(report.speed))
    if report.scenes:
        parts.append(scene_table(report.scenes))
    facts = ", ".join(f"{name} {value}" for name, value in report.machine.items() if value)
    return "\n\n".join([*parts, f"{report.started}; {facts}."])


def speed_table(rows: Sequence[SpeedRow]) -> str:
    """Times a window, data on the device."""
    return markdown_table(
        [
            "network", "engine", "batch", "ms a window", "windows/s", "x eager", "x autocast",
            "x compiled", "of the floor", "same class",
        ],
        [
            [row.network, row.engine, str(row.batch), *_figures(row)]
            for row in rows
        ],
    )  # fmt: skip


def scene_table(rows: Sequence[SceneRow]) -> str:
    """Seconds a scene, and their share of the engine's own rate."""
    return markdown_table(
        ["network", "preprocess", "stride", "windows", "s", "of the engine's rate", "same class"],
        [
            [
                row.network,
                row.preprocess,
                str(row.stride),
                str(row.windows),
                f"{row.total_s:.2f}",
                f"{row.share:.0%}",
                _percent(row.agreement),
            ]
            for row in rows
        ],
    )


def _steps(steps: Sequence[StepResult]) -> str:
    return markdown_table(
        ["step", "network", "", "s", "found"],
        [
            [
                step.step,
                step.network,
                step.status,
                f"{step.seconds:.0f}",
                step.why or _words(step.facts),
            ]
            for step in steps
        ],
    )


def _words(facts: Mapping[str, Any]) -> str:
    """Numbers and verdicts in one line; what is longer is in the JSON."""
    plain = ((name, fact) for name, fact in facts.items() if not isinstance(fact, (dict, list)))
    return ", ".join(
        f"{name} {fact:.6g}" if isinstance(fact, float) else f"{name} {fact}"
        for name, fact in plain
    )


def _figures(row: SpeedRow) -> list[str]:
    if row.refused is not None:
        return [row.refused[:60], *["-"] * 6]
    ratios = (row.ratio_eager, row.ratio_autocast, row.ratio_compiled)
    return [
        f"{row.median_ms:.3f}",
        f"{row.windows_per_s:.0f}",
        *("-" if ratio is None else f"{ratio:.2f}" for ratio in ratios),
        "-" if row.floor_share is None else f"{row.floor_share:.0%}",
        _percent(row.agreement),
    ]


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.4%}"
