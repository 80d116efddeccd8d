"""Examine a model file: its contract, and its engine's verdict; no GPU is touched."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mfnet_runtime.backends import backend_for, backend_from_file
from mfnet_runtime.backends.base import Batches
from mfnet_runtime.backends.onnx_file import contract_from_onnx, contract_in_onnx
from mfnet_runtime.backends.tensorrt.plan_file import PLAN_SUFFIX
from mfnet_runtime.checks.findings import Findings
from mfnet_runtime.contract import Contract
from mfnet_runtime.tiling.batch_size import BatchSize
from mfnet_runtime.tiling.options import AskedBatch


@dataclass(frozen=True)
class ModelRequest:
    """The options of a run about its model."""

    path: Path
    backend: str = "auto"
    device: str = "auto"
    trust_plan: bool = False
    precision: str | None = None


@dataclass(frozen=True)
class ModelInfo:
    """A model's contract, and the backend that would run it."""

    file: str  # name without folder
    backend: str
    device: str
    contract: Contract
    batches: Batches

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON types."""
        contract, rule = self.contract, self.contract.dsm
        return {
            "model": self.file,
            "backend": self.backend,
            "device": self.device,
            "precision": contract.precision,
            "window": contract.window,
            "pixel_size": contract.pixel_size,
            "classes": list(contract.classes.names),
            "bands": list(contract.image.bands),
            "full_scale": contract.image.full_scale,
            "dsm_rule": {"rule": rule.name, "low": rule.low, "high": rule.high},
        }


def model_info(found: Findings, request: ModelRequest) -> ModelInfo:
    """Read a model's contract, and add to `found` what keeps it from running here.

    Raises:
        UsageError: the file is missing, or no backend runs it as requested.
        ModelError: it has no contract or is damaged.
    """
    path, precision = request.path, request.precision
    name, device = backend_for(path, request.backend, request.device, request.trust_plan)
    batches = Batches()
    if path.suffix.lower() == PLAN_SUFFIX:
        from mfnet_runtime.backends.tensorrt.compatibility import known_of_plan, require_digest

        contract, facts = known_of_plan(path, request.trust_plan)
        if facts:
            batches = Batches(facts.profile.best, facts.profile.largest)
            if not request.trust_plan:
                with found.refusals("model"):
                    require_digest(path, facts, path.read_bytes())
    elif device == "cpu":
        contract = contract_from_onnx(path, precision)
    else:
        contract = contract_in_onnx(path)
    with found.refusals("model"):
        backend_from_file(path, name, device, request.trust_plan, precision=precision)
    return ModelInfo(path.name, name, device, contract, batches)


def largest_batch(found: Findings, asked: AskedBatch, batches: Batches) -> int:
    """Return the most windows that one call may have."""
    with found.refusals("model"):
        return BatchSize(asked, batches).largest
    return batches.best
