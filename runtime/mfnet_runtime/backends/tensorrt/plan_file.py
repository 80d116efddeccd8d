"""What stands beside a plan: its contract, and what it was built from, with and for. JSON.

A plan says nothing about itself that can be read without running it, so the runtime trusts this
file alone: the digest of the plan is in it. Knows no TensorRT.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mfnet_runtime.contract import Contract
from mfnet_runtime.errors import ModelError
from mfnet_runtime.labels import PLAIN_NAME, is_plain_name
from mfnet_runtime.strict_json import json_from_file

FORMAT = "mfnet-plan/1"
PLAN_SUFFIX = ".plan"
TEXTS = ("plan_sha256", "onnx_sha256", "tensorrt", "cuda", "driver", "gpu")  # which are shown
HARDWARE = ("none", "same_compute_capability", "ampere_plus")  # TensorRT's compatibility levels


@dataclass(frozen=True)
class Profile:
    """Batches a plan was built for, in windows."""

    smallest: int
    best: int  # the one its kernels were chosen for
    largest: int

    def __post_init__(self) -> None:
        if not 1 <= self.smallest <= self.best <= self.largest:
            raise ModelError(
                f"batches {self.smallest}, {self.best}, {self.largest}; expected them ascending, "
                "from 1"
            )


@dataclass(frozen=True)
class PlanFacts:
    """Everything known about a plan."""

    contract: Contract  # of the graph it was built from
    plan_sha256: str
    onnx_sha256: str
    tensorrt: str  # version that built it, as 10.13.3.9
    cuda: str  # version of the toolkit it was built with, as 12.2
    driver: str  # latest CUDA version of the driver it was built on, as 13.0
    gpu: str  # name of the GPU it was built on
    compute_capability: tuple[int, int]
    profile: Profile
    version_compatible: bool = False  # later versions of TensorRT run it too, and the lean runtime
    hardware: str = "none"  # one of HARDWARE
    weights: bool = True  # False: stripped, to be refitted before use
    layers: int | None = None  # of the built engine; None where they cannot be listed
    fused_attentions: int | None = None

    def __post_init__(self) -> None:
        if self.hardware not in HARDWARE:
            raise ModelError(
                f"hardware level {self.hardware!r} is not one of {', '.join(HARDWARE)}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types only."""
        facts = {name: getattr(self, name) for name in self.__dataclass_fields__}
        facts |= {
            "format": FORMAT,
            "contract": self.contract.to_dict(),
            "profile": asdict(self.profile),
            "compute_capability": list(self.compute_capability),
        }
        return facts

    def to_json(self) -> str:
        """Indented JSON text: people read it too."""
        return json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n"

    @staticmethod
    def from_dict(data: Any) -> PlanFacts:
        """Inverse of `to_dict`.

        Raises:
            ModelError: another format, a missing or unknown field, or a value out of its range.
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
    """best.fp16.plan -> best.fp16.plan.json."""
    return plan.with_name(f"{plan.name}.json")


def facts_of_plan(plan: Path) -> PlanFacts:
    """What stands beside a plan; the plan itself is not opened.

    Raises:
        ModelError: no such file there, or damaged.
    """
    sidecar = sidecar_of(plan)
    try:
        return PlanFacts.from_dict(json_from_file(sidecar))
    except (OSError, ValueError) as fault:
        reason = getattr(fault, "strerror", None) or fault
        raise ModelError(
            f"{plan}: a plan says nothing about itself, and {sidecar.name} cannot be read "
            f"({reason}); keep both files together, or build the plan again"
        ) from fault
    except ModelError as fault:
        raise ModelError(f"{sidecar}: {fault}; build the plan again") from fault
