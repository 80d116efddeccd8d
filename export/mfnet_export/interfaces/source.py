"""The model that another program is to take: an ONNX file, or a plan."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from mfnet_runtime.backends.onnx_file import contract_in_onnx
from mfnet_runtime.backends.tensorrt.compatibility import require_digest
from mfnet_runtime.backends.tensorrt.plan_file import (
    PLAN_SUFFIX,
    PlanFacts,
    facts_of_plan,
    sidecar_of,
)
from mfnet_runtime.contract import Contract
from mfnet_runtime.errors import UsageError


@dataclass(frozen=True)
class Source:
    """A model file with its contract."""

    path: Path
    contract: Contract
    plan: PlanFacts | None  # the facts beside a plan; None for an ONNX file

    def require_onnx(self, interface: str) -> None:
        """Refuse a plan, whose graph and weights cannot be read.

        Raises:
            UsageError: Names the interface.
        """
        if self.plan is not None:
            raise UsageError(
                f"{self.path}: a plan reveals neither graph nor weights, which --for {interface} "
                "needs; give the ONNX file that it was built from"
            )

    def copy_to(self, path: Path) -> None:
        """Copy the model, and the file of weights or facts beside it."""
        shutil.copyfile(self.path, path)
        if self.plan is not None:
            shutil.copyfile(sidecar_of(self.path), sidecar_of(path))
        self.copy_weights_to(path.parent)

    def copy_weights_to(self, folder: Path) -> None:
        """Copy the file of weights beside an ONNX file, under the name that the graph states."""
        weights = self.path.with_name(f"{self.path.name}.data")
        if self.plan is None and weights.is_file():
            shutil.copyfile(weights, folder / weights.name)


def source_from_file(path: Path) -> Source:
    """Read the contract of an ONNX file, or that beside a plan.

    Raises:
        UsageError: There is no such file.
        ModelError: The file is damaged or has no contract, or the facts belong to another plan.
    """
    if not path.is_file():
        raise UsageError(f"{path}: no such file; give an ONNX file or a plan with --onnx")
    if path.suffix.lower() != PLAN_SUFFIX:
        return Source(path, contract_in_onnx(path), None)
    facts = facts_of_plan(path)
    require_digest(path, facts, path.read_bytes())
    return Source(path, facts.contract, facts)
