"""Whether a plan may run here: who vouches for it, and the TensorRT and GPU it was built for.

All of it is checked before the plan is opened, since opening one runs code that lies in it.
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
LEAN = ("tensorrt_lean", "tensorrt_lean_bindings")  # run version-compatible plans alone
OLDEST = (8, 6)  # TensorRT
AMPERE = (8, 0)  # compute capability

_log = logging.getLogger(__name__)


def known_of_plan(path: Path, trusted: bool) -> tuple[Contract, PlanFacts | None]:
    """The contract of a plan, and what else is to be checked; None where the user vouches for it.

    Args:
        path: The plan.
        trusted: Take the contract from the file beside it, or else from the ONNX file of its name,
            and check nothing but the engine's tensors.

    Raises:
        ModelError: nothing beside the plan gives its contract, or what does is damaged.
    """
    onnx = path.with_suffix(".onnx")
    if not trusted:
        try:
            facts = facts_of_plan(path)
        except ModelError as fault:
            if sidecar_of(path).exists():
                raise
            raise ModelError(
                f"{fault}; if you vouch for it, --trust-plan takes the contract of {onnx.name}"
            ) from fault
        return facts.contract, facts
    if sidecar_of(path).exists():
        return facts_of_plan(path).contract, None
    if not onnx.exists():
        raise ModelError(
            f"{path}: neither {sidecar_of(path).name} nor {onnx.name} is beside it; one of them "
            "must say what the model promises"
        )
    return contract_in_onnx(onnx), None


def tensorrt_for(path: Path, facts: PlanFacts | None) -> Any:
    """The TensorRT module that is to run a plan: the full one, or where it may be the lean one.

    Raises:
        ModuleNotFoundError: none is installed.
        UsageError: one is installed and cannot be loaded.
        ModelError: only the lean one is installed, and cannot run this plan.
    """
    try:
        return _loaded(FULL)
    except ModuleNotFoundError:
        for name in LEAN:
            try:
                lean = _loaded(name)
            except ModuleNotFoundError:
                continue
            if facts is None or facts.version_compatible:
                return lean
            raise ModelError(
                f"{path}: needs all of TensorRT, and {name} alone is installed; install it with "
                f"pip install tensorrt=={facts.tensorrt}, or build the plan with "
                f"--version-compatible: {rebuild_command(path)}"
            ) from None
        raise


def _loaded(name: str) -> Any:
    try:
        return import_module(name)
    except ModuleNotFoundError:
        raise
    except (ImportError, OSError) as fault:
        raise UsageError(
            f"{name} is installed and cannot be loaded ({fault}); it needs the CUDA libraries it "
            "was built with"
        ) from fault


def require_version(path: Path, facts: PlanFacts, version: str) -> None:
    """Refuse a plan that this TensorRT does not run.

    Args:
        path: The plan, for the message.
        facts: What stands beside it.
        version: Of the TensorRT here.

    Raises:
        ModelError: with both versions and the command to build it again.
        UsageError: this TensorRT is too old for any plan.
    """
    if not facts.weights:
        raise ModelError(
            f"{path}: was built without its weights and cannot run; build it without "
            f"--strip-weights: {rebuild_command(path)}"
        )
    built, here = version_numbers(facts.tensorrt), version_numbers(version)
    if here < OLDEST:
        raise UsageError(f"TensorRT {version} is here; needs {OLDEST[0]}.{OLDEST[1]} or later")
    if here == built or (facts.version_compatible and here > built):
        return
    later = " or later" if facts.version_compatible else ""
    raise ModelError(
        f"{path}: built for TensorRT {facts.tensorrt}{later}, here is {version}; "
        f"build it again here: {rebuild_command(path)}"
    )


def require_gpu(path: Path, facts: PlanFacts, name: str, capability: tuple[int, int]) -> None:
    """Refuse a plan built for another kind of GPU; warn of another GPU of the same kind.

    Args:
        path: The plan, for the message.
        facts: What stands beside it.
        name: Of the GPU here.
        capability: Compute capability of the GPU here.

    Raises:
        ModelError: with both GPUs and the command to build it again.
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
        _log.warning(
            f"warning: {path.name} was built on {facts.gpu} and runs on {name}; it may be slower "
            f"than one built here: {rebuild_command(path)}"
        )


def require_digest(path: Path, facts: PlanFacts, plan: bytes) -> None:
    """Refuse a plan that is not the one its facts are about.

    Raises:
        ModelError: it was changed, damaged or exchanged.
    """
    found = hashlib.sha256(plan).hexdigest()
    if found != facts.plan_sha256:
        raise ModelError(
            f"{path}: its SHA-256 is {found[:12]}…, {sidecar_of(path).name} says "
            f"{facts.plan_sha256[:12]}…: damaged, or not the files of one build; copy both again, "
            f"or build it again: {rebuild_command(path)}"
        )


def rebuild_command(path: Path) -> str:
    """The command that builds a plan from the ONNX file of its name."""
    return f"mfnet-export --onnx {path.with_suffix('.onnx').name} --plan"


def version_numbers(version: str) -> tuple[int, ...]:
    """10.13.3.9 -> (10, 13, 3, 9)."""
    return tuple(int(part) for part in re.findall(r"\d+", version)[:4])


def _dotted(capability: tuple[int, int]) -> str:
    return ".".join(map(str, capability))
