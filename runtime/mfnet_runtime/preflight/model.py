"""What a model says about itself, and whether it could run here.

Its header, or the file beside a plan, says nearly all; an engine loads it only where that is not
enough. Whether the usual engine takes a sound graph only a run shows.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mfnet_runtime.backends import backend_for, backend_from_file
from mfnet_runtime.backends.base import Batches
from mfnet_runtime.backends.model_checks import contract_from_onnx, contract_in_onnx
from mfnet_runtime.backends.tensorrt.plan_file import PLAN_SUFFIX
from mfnet_runtime.contract import Contract
from mfnet_runtime.errors import UsageError, missing_package
from mfnet_runtime.preflight.findings import Findings
from mfnet_runtime.tiling.batch_size import Asked, BatchSize


@dataclass(frozen=True)
class ModelWords:
    """What was asked for about the model."""

    path: Path
    backend: str = "auto"
    device: str = "auto"
    trust_plan: bool = False
    precision: str | None = None


@dataclass(frozen=True)
class ModelFacts:
    """What a model says about itself, and what would run it."""

    file: str  # without its folder
    backend: str
    device: str
    contract: Contract
    batches: Batches

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types only."""
        contract = self.contract
        return {
            "model": self.file,
            "backend": self.backend,
            "device": self.device,
            "precision": contract.precision,
            "window": contract.window,
            "classes": list(contract.classes.names),
            "bands": list(contract.image.bands),
            "full_scale": contract.image.full_scale,
            "dsm_rule": {
                "rule": contract.dsm.name,
                "low": contract.dsm.low,
                "high": contract.dsm.high,
            },
        }


def model_facts(found: Findings, words: ModelWords) -> ModelFacts:
    """What a model promises; whether it would run goes to `found`.

    Raises:
        UsageError: the file is missing, or nothing runs it as asked.
        ModelError: it has no contract, or a damaged one.
    """
    path = words.path
    name, device = backend_for(path, words.backend, words.device, words.trust_plan)
    if path.suffix.lower() == PLAN_SUFFIX:
        return _plan_facts(found, words, name, device)
    if device == "cpu":
        contract = contract_from_onnx(path, words.precision)
    else:
        contract = contract_in_onnx(path)
    with found.refusals("model"):
        if find_spec(name) is None:
            raise UsageError(f"backend {name} {missing_package(name) or 'is not installed'}")
        if words.precision is not None or device != "cpu":
            backend_from_file(path, name, device, precision=words.precision)
    return ModelFacts(path.name, name, device, contract, Batches())


def _plan_facts(found: Findings, words: ModelWords, name: str, device: str) -> ModelFacts:
    """Of a plan, whose backend touches no GPU before it is entered."""
    from mfnet_runtime.backends.tensorrt.compatibility import known_of_plan, require_digest

    path = words.path
    contract, facts = known_of_plan(path, words.trust_plan)
    batches = Batches(facts.profile.best, facts.profile.largest) if facts else Batches()
    with found.refusals("model"):
        if facts:
            require_digest(path, facts, path.read_bytes())
    with found.refusals("model"):
        backend_from_file(path, name, device, words.trust_plan, precision=words.precision)
    return ModelFacts(path.name, name, device, contract, batches)


def largest_batch(found: Findings, asked: Asked, batches: Batches) -> int:
    """Windows a call, the most there may be."""
    with found.refusals("model"):
        return BatchSize(asked, batches).largest
    return batches.best
