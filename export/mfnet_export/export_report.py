"""Report of an export: the files that were written, and how they were checked."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mfnet_export.precision.accuracy import PrecisionReport
from mfnet_export.report import labelled, size_text
from mfnet_export.rewrites.steps import StepCost
from mfnet_export.tensorrt.build import PlanReport
from mfnet_export.validation.parity import ParityReport
from mfnet_runtime.contract import Contract


@dataclass(frozen=True)
class ExportReport:
    """The files that were written, and the parity with PyTorch."""

    output: Path
    size: int  # bytes, including weights beside the file
    rewrites: tuple[StepCost, ...]  # those that changed something
    parity: ParityReport
    contract: Contract
    seconds: float
    assumed: tuple[str, ...] = ()  # facts that an official file does not state, and their options
    converted: tuple[PrecisionReport, ...] = ()  # the FP16 and INT8 files
    plans: tuple[PlanReport, ...] = ()
    no_plan: str = ""  # what this machine lacks to build an optional plan

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {
            "output": str(self.output),
            "bytes": self.size,
            "rewrites": [asdict(step) for step in self.rewrites],
            "parity": self.parity.to_json(),
            "contract": self.contract.to_dict(),
            "assumed": list(self.assumed),
            "seconds": round(self.seconds, 2),
            **{made.name: made.to_json() for made in self.converted},
            "plans": [plan.to_json() for plan in self.plans],
            **({"no_plan": self.no_plan} if self.no_plan else {}),
        }

    def lines(self) -> list[str]:
        """Return the report as text that ends in the next command."""
        size, plans = size_text(self.size), [plan.lines() for plan in self.plans]
        return [
            *labelled("rewrites", self._rewrite_rows()),
            *labelled("written", [f"{self.output}  {size}, in {self.seconds:.0f} s"]),
            *labelled("assumed", self.assumed),
            *labelled("parity", self.parity.lines()),
            *(row for made in self.converted for row in made.lines()),
            *(row for plan in plans for row in plan[:-1]),  # each ends in its next command
            plans[-1][-1] if plans else f"next: {self._next_command()}",
        ]

    def _next_command(self) -> str:
        last = self.converted[-1].output if self.converted else self.output
        if self.no_plan:
            command = f"mfnet-export --onnx {last} --plan"
            return f"{command}  on the machine with the GPU (not here: {self.no_plan})"
        return f"mfnet-run {last} SCENES -o OUT"

    def _rewrite_rows(self) -> list[str]:
        """Return one row per rewrite with its saving, and the total."""
        if not self.rewrites:
            return ["none"]
        rows = []
        for step in self.rewrites:
            change = step.after - step.before
            saving = f"{change:+7.3f} GFLOP" if change else ""
            rows.append(f"{step.name:15}  {saving:13}  {step.description}")
        first, last = self.rewrites[0].before, self.rewrites[-1].after
        return [*rows, f"{first:.2f} -> {last:.2f} GFLOP per window"]
