"""Check that a plan may run here: its checksum, and the TensorRT and GPU it was built for.

Everything is checked before the plan is opened: opening a plan runs code in it.
"""

from __future__ import annotations

import hashlib
import logging
import re
from importlib import import_module
from pathlib import Path
from typing import Any

from mfnet_runtime.backends.onnx_file import contract_in_onnx
from mfnet_runtime.backends.tensorrt.plan_file import PlanFacts, facts_of_plan, sidecar_of
from mfnet_runtime.contract import Contract
from mfnet_runtime.errors import ModelError, UsageError

FULL = "tensorrt"
LEAN = ("tensorrt_lean", "tensorrt_lean_bindings")  # run version-compatible plans only
OLDEST = (8, 6)  # TensorRT
AMPERE = (8, 0)  # compute capability

logger = logging.getLogger(__name__)


def known_of_plan(path: Path, trusted: bool) -> tuple[Contract, PlanFacts | None]:
    """Read the contract of a plan and the facts to check; None instead of facts if trusted.

    Args:
        path: The plan.
        trusted: Take the contract from the file beside it, or from the ONNX file of its name, and
            skip all checks but those of the engine's tensors.

    Raises:
        ModelError: no file beside the plan holds its contract, or that file is damaged.
    """
    onnx = path.with_suffix(".onnx")
    if not trusted:
        try:
            facts = facts_of_plan(path)
        except ModelError as fault:
            if sidecar_of(path).exists():
                raise
            raise ModelError(
                f"{fault}; if you trust the plan, --trust-plan takes the contract of {onnx.name}"
            ) from fault
        return facts.contract, facts
    if sidecar_of(path).exists():
        return facts_of_plan(path).contract, None
    if not onnx.exists():
        raise ModelError(
            f"{path}: neither {sidecar_of(path).name} nor {onnx.name} is beside it; one of them "
            "must hold its contract"
        )
    return contract_in_onnx(onnx), None


def tensorrt_for(path: Path, facts: PlanFacts | None) -> Any:
    """Import the TensorRT module that runs a plan: the full one, or the lean one if that suffices.

    Raises:
        ModuleNotFoundError: neither is installed.
        UsageError: it is installed but cannot be loaded.
        ModelError: only the lean one is installed, and it cannot run this plan.
    """
    try:
        return _load(FULL)
    except ModuleNotFoundError:
        for name in LEAN:
            try:
                lean = _load(name)
            except ModuleNotFoundError:
                continue
            if facts is None or facts.version_compatible:
                return lean
            raise ModelError(
                f"{path}: needs the full TensorRT, but only {name} is installed; install it with "
                f"pip install tensorrt=={facts.tensorrt}, or build the plan with "
                f"--version-compatible: {rebuild_command(path)}"
            ) from None
        raise


def _load(name: str) -> Any:
    try:
        return import_module(name)
    except ModuleNotFoundError:
        raise
    except (ImportError, OSError) as fault:
        raise UsageError(
            f"{name} is installed but cannot be loaded ({fault}); it needs the CUDA libraries it "
            "was built with"
        ) from fault


def require_version(path: Path, facts: PlanFacts, version: str) -> None:
    """Refuse a plan that this TensorRT does not run.

    Args:
        path: The plan, for the message.
        facts: From the file beside it.
        version: The version of the installed TensorRT.

    Raises:
        ModelError: the message has both versions and the command to build it again.
        UsageError: this TensorRT is too old for any plan.
    """
    if not facts.weights:
        raise ModelError(
            f"{path}: was built without its weights and cannot run; build it without "
            f"--strip-weights: {rebuild_command(path)}"
        )
    built, here = version_numbers(facts.tensorrt), version_numbers(version)
    if here < OLDEST:
        raise UsageError(f"TensorRT {version} is installed; needs {OLDEST[0]}.{OLDEST[1]} or later")
    if here == built or (facts.version_compatible and here > built):
        return
    later = " or later" if facts.version_compatible else ""
    raise ModelError(
        f"{path}: built for TensorRT {facts.tensorrt}{later}, here is {version}; "
        f"build it again here: {rebuild_command(path)}"
    )


def require_gpu(path: Path, facts: PlanFacts, name: str, capability: tuple[int, int]) -> None:
    """Refuse a plan built for another kind of GPU; warn about another GPU of the same kind.

    Args:
        path: The plan, for the message.
        facts: From the file beside it.
        name: The name of the GPU in use.
        capability: Its compute capability.

    Raises:
        ModelError: the message has both GPUs and the command to build it again.
    """
    built = facts.compute_capability
    fits = capability == built
    if facts.hardware == "ampere_plus":
        fits = min(capability, built) >= AMPERE
    if not fits:
        raise ModelError(
            f"{path}: built for {facts.gpu} (compute capability {_dotted(built)}), here is {name} "
            f"({_dotted(capability)}); build it again here: {rebuild_command(path)}"
        )
    if facts.hardware == "none" and name != facts.gpu:
        logger.warning(
            f"{path.name} was built on {facts.gpu} and runs on {name}; it may be slower "
            f"than one built here: {rebuild_command(path)}"
        )


def require_digest(path: Path, facts: PlanFacts, plan: bytes) -> None:
    """Refuse a plan whose SHA-256 is not the one in the file beside it.

    Raises:
        ModelError: the plan was changed, damaged or replaced.
    """
    found = hashlib.sha256(plan).hexdigest()
    if found != facts.plan_sha256:
        raise ModelError(
            f"{path}: its SHA-256 is {found[:12]}…, {sidecar_of(path).name} says "
            f"{facts.plan_sha256[:12]}…: damaged, or from different builds; copy both files again, "
            f"or build it again: {rebuild_command(path)}"
        )


def rebuild_command(path: Path) -> str:
    """Return the command that builds a plan from the ONNX file of its name."""
    return f"mfnet-export --onnx {path.with_suffix('.onnx').name} --plan"


def version_numbers(version: str) -> tuple[int, ...]:
    """Parse a version: 10.13.3.9 becomes (10, 13, 3, 9)."""
    return tuple(int(part) for part in re.findall(r"\d+", version)[:4])


def _dotted(capability: tuple[int, int]) -> str:
    return ".".join(map(str, capability))
