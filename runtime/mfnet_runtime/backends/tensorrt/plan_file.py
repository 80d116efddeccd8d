"""The JSON file beside a plan: its contract, its SHA-256, and the TensorRT and GPU it is for.

A plan reveals nothing about itself without being run, so the runtime relies on this file.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mfnet_runtime.contract import Contract, json_from_file
from mfnet_runtime.errors import ModelError
from mfnet_runtime.labels import PLAIN_NAME, is_plain_name

FORMAT = "mfnet-plan/1"
PLAN_SUFFIX = ".plan"
TEXTS = ("plan_sha256", "onnx_sha256", "tensorrt", "cuda", "driver", "gpu")  # shown to users
HARDWARE = ("none", "same_compute_capability", "ampere_plus")  # TensorRT's compatibility levels


@dataclass(frozen=True)
class Profile:
    """Batch sizes a plan was built for, in windows."""

    smallest: int
    best: int  # its kernels were chosen for this size
    largest: int

    def __post_init__(self) -> None:
        if not 1 <= self.smallest <= self.best <= self.largest:
            raise ModelError(
                f"batches {self.smallest}, {self.best}, {self.largest}; expected ascending numbers "
                "from 1"
            )


@dataclass(frozen=True)
class PlanFacts:
    """The content of the file beside a plan."""

    contract: Contract  # of the ONNX file it was built from
    plan_sha256: str
    onnx_sha256: str
    tensorrt: str  # version that built it: 10.13.3.9
    cuda: str  # toolkit version it was built with: 12.2
    driver: str  # newest CUDA version of the driver it was built with: 13.0
    gpu: str  # name of the GPU it was built on
    compute_capability: tuple[int, int]
    profile: Profile
    version_compatible: bool = False  # runs on later versions of TensorRT and the lean runtime
    hardware: str = "none"  # one of HARDWARE
    weights: bool = True  # False: stripped, and must be refitted before use
    layers: int | None = None  # in the built engine; None if they cannot be listed
    fused_attentions: int | None = None

    def __post_init__(self) -> None:
        if self.hardware not in HARDWARE:
            raise ModelError(
                f"hardware level {self.hardware!r} is not one of {', '.join(HARDWARE)}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        facts = {name: getattr(self, name) for name in self.__dataclass_fields__}
        facts |= {
            "format": FORMAT,
            "contract": self.contract.to_dict(),
            "profile": asdict(self.profile),
            "compute_capability": list(self.compute_capability),
        }
        return facts

    def to_json(self) -> str:
        """Return indented JSON text, for people to read."""
        return json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n"

    @staticmethod
    def from_dict(data: Any) -> PlanFacts:
        """Parse the output of `to_dict`.

        Raises:
            ModelError: another format, a missing or unknown field, or a value out of range.
        """
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            found = data.get("format") if isinstance(data, dict) else type(data).__name__
            raise ModelError(f"plan facts have format {found!r:.80}; this version reads {FORMAT!r}")
        facts = {name: value for name, value in data.items() if name != "format"}
        try:
            major, minor = facts["compute_capability"]
            facts |= {
                "contract": Contract.from_dict(facts["contract"]),
                "profile": Profile(**facts["profile"]),
                "compute_capability": (int(major), int(minor)),
            }
            made = PlanFacts(**facts)
        except (KeyError, TypeError, ValueError) as fault:
            raise ModelError(f"plan facts are malformed: {fault!r:.200}") from fault
        for name in TEXTS:
            text = getattr(made, name)
            if not isinstance(text, str) or not is_plain_name(text):
                raise ModelError(f"plan facts: {name} {text!r:.80} must be {PLAIN_NAME}")
        return made


def sidecar_of(plan: Path) -> Path:
    """Return the path of the file beside a plan: best.fp16.plan.json."""
    return plan.with_name(f"{plan.name}.json")


def facts_of_plan(plan: Path) -> PlanFacts:
    """Read the file beside a plan; the plan itself is not opened.

    Raises:
        ModelError: the file is missing or damaged.
    """
    sidecar = sidecar_of(plan)
    try:
        return PlanFacts.from_dict(json_from_file(sidecar))
    except (OSError, ValueError) as fault:
        reason = getattr(fault, "strerror", None) or fault
        raise ModelError(
            f"{plan}: {sidecar.name} cannot be read ({reason}); keep both files together, or build "
            "the plan again"
        ) from fault
    except ModelError as fault:
        raise ModelError(f"{sidecar}: {fault}; build the plan again") from fault
