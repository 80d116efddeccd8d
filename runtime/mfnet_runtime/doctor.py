"""`mfnet-run --check`: everything a run would refuse, and what is odd, before anything is done.

Nothing is written. The model is not loaded: its header, or the file beside a plan, says all that
is asked here; whether an engine takes its graph only a run shows.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mfnet_runtime.backends import backend_for, backend_from_file
from mfnet_runtime.backends.checks import contract_from_onnx, contract_in_onnx
from mfnet_runtime.batch_size import Asked, Batches, BatchSize
from mfnet_runtime.contract import Contract
from mfnet_runtime.doctor_findings import Findings
from mfnet_runtime.doctor_scene import Checkup, Work
from mfnet_runtime.errors import ResourceError, UsageError, missing_package
from mfnet_runtime.outputs import OutputPaths
from mfnet_runtime.plan import PLAN_SUFFIX
from mfnet_runtime.run import require_places
from mfnet_runtime.run_folder import WORK
from mfnet_runtime.scenes import Scene
from mfnet_runtime.vector_file import require_vectors


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
    """What can be known of a model without loading it; whether it would run goes to `found`.

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
    return ModelFacts(path.name, name, device, contract, Batches())


def _plan_facts(found: Findings, words: ModelWords, name: str, device: str) -> ModelFacts:
    """Of a plan, whose backend touches no GPU before it is entered."""
    from mfnet_runtime.backends.trt_checks import known_of_plan, require_digest

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


def examine_folder(found: Findings, scenes: Sequence[Scene], work: Work) -> None:
    """Findings on where the outputs would go."""
    folder = work.folder
    if work.vectors is not None:
        with found.refusals("output"):
            try:
                require_vectors(work.vectors)
            except ModuleNotFoundError as fault:
                raise UsageError(missing_package(fault.name) or str(fault)) from fault
    if folder is None:
        return
    places = [
        OutputPaths.of(folder, scene.name, work.options.layers, work.vectors) for scene in scenes
    ]
    with found.refusals("output"):
        require_places(scenes, places, folder)
        here = _existing(folder)
        if not os.access(here, os.W_OK | os.X_OK):
            raise ResourceError(
                f"{folder}: cannot be written ({here} is read-only for you); choose another "
                "folder with -o"
            )
    if (folder / WORK).exists():
        found.warning(
            "output",
            f"{folder}: a run there is not finished; add --resume to go on with it, or --restart "
            "to begin anew",
        )


def examine_disk(found: Findings, folder: Path, checkups: Iterable[Checkup]) -> None:
    """Whether all outputs fit, if they do not compress at all."""
    needs = sum(checkup.estimate.disk for checkup in checkups if checkup.estimate)
    free = shutil.disk_usage(_existing(folder)).free
    text = f"{_size(needs)} of disk at most are needed, {_size(free)} are free"
    if needs > free:
        found.warning("output", f"{folder}: {text}; outputs compress well, but make room")
    else:
        found.ok("output", text)


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that there is."""
    whole = folder.absolute()
    return next(path for path in (whole, *whole.parents) if path.exists())


def _size(count: int) -> str:
    return f"{count / (1 << 20):,.0f} MiB"
