"""Check that a plan may run here: its checksum, and the TensorRT and GPU it was built for.

Everything is checked before the plan is opened: opening a plan runs code in it.
"""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Any

from mfnet_runtime.backends.onnx_file import contract_in_onnx
from mfnet_runtime.backends.tensorrt.flavour import (
    FLAVOURS,
    FULL,
    RTX,
    RTX_GPUS,
    Flavour,
    import_flavour,
    target_text,
    version_numbers,
)
from mfnet_runtime.backends.tensorrt.plan_file import PlanFacts, facts_of_plan, sidecar_of
from mfnet_runtime.contract import Contract
from mfnet_runtime.errors import ModelError

logger = logging.getLogger(__name__)


def known_of_plan(path: Path, trusted: bool) -> tuple[Contract, PlanFacts | None]:
    """Read the contract of a plan and the facts beside it; None if a trusted plan has none.

    Args:
        path: The plan.
        trusted: Take the contract from the ONNX file of its name if there is no file beside it.

    Raises:
        ModelError: no file beside the plan holds its contract, or that file is damaged.
    """
    onnx = path.with_suffix(".onnx")
    if sidecar_of(path).exists():
        facts = facts_of_plan(path)
        return facts.contract, facts
    if trusted and onnx.exists():
        return contract_in_onnx(onnx), None
    if trusted:
        raise ModelError(
            f"{path}: neither {sidecar_of(path).name} nor {onnx.name} is beside it; one of them "
            "must hold its contract"
        )
    raise ModelError(
        f"{path}: {sidecar_of(path).name} is not beside it; copy both files together, or build "
        f"the plan again; if you trust it, --trust-plan takes the contract of {onnx.name}"
    )


def tensorrt_for(path: Path, facts: PlanFacts | None) -> tuple[Any, Flavour]:
    """Import the TensorRT module that runs a plan.

    Version-compatible plans run on the lean runtime too. Without facts, the first flavour that is
    installed is taken.

    Raises:
        ModuleNotFoundError: None is installed.
        UsageError: It is installed but cannot be loaded.
        ModelError: Only another flavour is installed, or only a lean runtime that cannot run this
            plan.
    """
    flavours = (FULL, RTX) if facts is None else (FLAVOURS[facts.flavour],)
    for flavour in flavours:
        for lean in (False, True):
            try:
                trt = import_flavour(flavour, lean)
            except ModuleNotFoundError:
                continue
            if facts is None or facts.version_compatible or not lean:
                return trt, flavour
            raise ModelError(
                f"{path}: needs the full TensorRT, but only {trt.__name__} is installed; "
                f"install it with pip install tensorrt=={facts.version}, or build the plan with "
                f"--version-compatible: {rebuild_command(path)}"
            )
    if facts is not None:
        _refuse_other_flavour(path, FLAVOURS[facts.flavour])
    raise ModuleNotFoundError("No module named 'tensorrt'", name=flavours[0].modules[0])


def _refuse_other_flavour(path: Path, built: Flavour) -> None:
    """Refuse a plan if the other flavour is installed instead of its own."""
    (other,) = (flavour for flavour in FLAVOURS.values() if flavour != built)
    try:
        trt = import_flavour(other)
    except ModuleNotFoundError:
        return
    raise ModelError(
        f"{path}: built for {built.title}, here is {other.title} {trt.__version__}; install it "
        f"with pip install 'mfnet[{built.extra}]', or build the plan again here: "
        f"{rebuild_command(path)}"
    )


def require_version(path: Path, facts: PlanFacts, version: str) -> None:
    """Refuse a plan that this TensorRT does not run.

    Args:
        path: The plan, for the message.
        facts: From the file beside it.
        version: The version of the installed TensorRT of its flavour.

    Raises:
        ModelError: The message has both versions and the command to build it again.
    """
    if not facts.weights:
        raise ModelError(
            f"{path}: was built without its weights and cannot run; build it without "
            f"--strip-weights: {rebuild_command(path)}"
        )
    built, here = version_numbers(facts.version), version_numbers(version)
    if here == built or (facts.version_compatible and here > built):
        return
    later = " or later" if facts.version_compatible else ""
    raise ModelError(
        f"{path}: built for {FLAVOURS[facts.flavour].title} {facts.version}{later}, here is "
        f"{version}; build it again here: {rebuild_command(path)}"
    )


def require_gpu(path: Path, facts: PlanFacts, name: str, capability: tuple[int, int]) -> None:
    """Refuse a plan built for other GPUs; warn about another GPU of the same kind.

    Args:
        path: The plan, for the message.
        facts: From the file beside it.
        name: The name of the GPU in use.
        capability: Its compute capability.

    Raises:
        ModelError: The message has both GPUs and the command to build it again.
    """
    here, rtx = target_text(capability), facts.flavour == RTX.name
    if rtx and capability not in RTX_GPUS and capability < RTX_GPUS[-1]:
        raise ModelError(
            f"{path}: {RTX.title} does not run on {name} ({here}); run the ONNX file with "
            "--device cuda (ONNX Runtime), or build a plan here with TensorRT: "
            "pip install 'mfnet[gpu]'"
        )
    if not any(_includes(target, capability) for target in facts.targets):
        on = f" (on {facts.gpu})" if facts.gpu else ""
        target = f" --target {here}" if rtx else ""
        raise ModelError(
            f"{path}: built for {', '.join(facts.targets)}{on}, here is {name} ({here}); "
            f"build it again: {rebuild_command(path)}{target}"
        )
    if facts.gpu and facts.hardware == "none" and name != facts.gpu:
        logger.warning(
            f"{path.name} was built on {facts.gpu} and runs on {name}; it may be slower "
            f"than one built here: {rebuild_command(path)}"
        )


def _includes(target: str, capability: tuple[int, int]) -> bool:
    number = int(target.removeprefix("sm").removesuffix("+"))
    oldest = divmod(number, 10)
    return capability >= oldest if target.endswith("+") else capability == oldest


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
