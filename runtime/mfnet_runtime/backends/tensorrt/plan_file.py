"""The JSON file beside a plan: its contract, its SHA-256, and the TensorRT and GPUs it is for.

A plan reveals nothing about itself without being run, so the runtime relies on this file.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mfnet_runtime.backends.tensorrt.flavour import FLAVOURS, FULL, target_text
from mfnet_runtime.contract import Contract, json_from_file
from mfnet_runtime.errors import ModelError
from mfnet_runtime.labels import PLAIN_NAME, is_plain_name

FORMAT = "mfnet-plan/2"
FIRST_FORMAT = "mfnet-plan/1"  # of TensorRT only, and always with a GPU
PLAN_SUFFIX = ".plan"
TEXTS = ("plan_sha256", "onnx_sha256", "version", "cuda", "driver", "gpu")  # shown to users
HARDWARE = ("none", "same_compute_capability", "ampere_plus")  # TensorRT's compatibility levels
PORTABLE = "sm80+"  # target of a plan for all GPUs from Ampere on
TARGET = re.compile(r"sm\d{2,3}\+?")


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
class LayerCounts:
    """Counts of layers in a built engine; None where TensorRT does not list them."""

    layers: int | None = None
    fused_attentions: int | None = None
    int8_layers: int | None = None
    fp32_tensors: int | None = None  # between layers


@dataclass(frozen=True)
class PlanFacts:
    """The content of the file beside a plan."""

    contract: Contract  # of the ONNX file it was built from
    plan_sha256: str
    onnx_sha256: str
    flavour: str  # one of FLAVOURS
    version: str  # of the TensorRT that built it: 10.13.3.9
    targets: tuple[str, ...]  # compute capabilities that run it: sm89; sm80+ includes later ones
    profile: Profile
    gpu: str | None = None  # name of the GPU it was built on; None: built without one
    cuda: str | None = None  # toolkit version it was built with: 12.2
    driver: str | None = None  # newest CUDA version of the driver it was built with: 13.0
    version_compatible: bool = False  # runs on later versions of TensorRT and the lean runtime
    hardware: str = "none"  # one of HARDWARE
    weights: bool = True  # False: stripped, and must be refitted before use
    attentions: int | None = None  # in the graph, with a head size that can be fused
    counts: LayerCounts = LayerCounts()

    def __post_init__(self) -> None:
        if self.flavour not in FLAVOURS:
            raise ModelError(f"flavour {self.flavour!r:.80} is not one of {', '.join(FLAVOURS)}")
        if self.hardware not in HARDWARE:
            raise ModelError(
                f"hardware level {self.hardware!r} is not one of {', '.join(HARDWARE)}"
            )
        wrong = [name for name in self.targets if not TARGET.fullmatch(name)]
        if wrong or not self.targets:
            raise ModelError(f"targets {wrong!r:.80} are not compute capabilities such as sm89")

    def counts_text(self) -> str:
        """Return the counts as text; ? for what TensorRT does not list."""
        counts = self.counts
        layers = "?" if counts.layers is None else counts.layers
        fused = "?" if counts.fused_attentions is None else counts.fused_attentions
        text = f"{layers} layers, {fused} of {self.attentions} attentions fused"
        if counts.int8_layers is not None:
            text += f", {counts.int8_layers} linear layers in INT8"
        if counts.fp32_tensors is not None:
            text += f", {counts.fp32_tensors} intermediates in FP32"
        return text

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        facts = {name: getattr(self, name) for name in self.__dataclass_fields__}
        facts |= {
            "format": FORMAT,
            "contract": self.contract.to_dict(),
            "targets": list(self.targets),
            "profile": asdict(self.profile),
            "counts": asdict(self.counts),
        }
        return facts

    def to_json(self) -> str:
        """Return indented JSON text, for people to read."""
        return json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n"

    @staticmethod
    def from_dict(data: Any) -> PlanFacts:
        """Parse the output of `to_dict`, or facts of the first format.

        Raises:
            ModelError: another format, a missing or unknown field, or a value out of range.
        """
        found = data.get("format") if isinstance(data, dict) else type(data).__name__
        if found not in (FORMAT, FIRST_FORMAT):
            raise ModelError(f"plan facts have format {found!r:.80}; this version reads {FORMAT!r}")
        facts = {name: value for name, value in data.items() if name != "format"}
        try:
            if found == FIRST_FORMAT:
                facts = _from_first_format(facts)
            facts |= {
                "contract": Contract.from_dict(facts["contract"]),
                "targets": tuple(facts["targets"]),
                "profile": Profile(**facts["profile"]),
                "counts": LayerCounts(**facts["counts"]),
            }
            made = PlanFacts(**facts)
        except (KeyError, TypeError, ValueError) as fault:
            raise ModelError(f"plan facts are malformed: {fault!r:.200}") from fault
        for name in TEXTS:
            text = getattr(made, name)
            optional = name in ("gpu", "cuda", "driver") and text is None
            if not optional and not (isinstance(text, str) and is_plain_name(text)):
                raise ModelError(f"plan facts: {name} {text!r:.80} must be {PLAIN_NAME}")
        return made


def _from_first_format(facts: dict[str, Any]) -> dict[str, Any]:
    """Return facts of the first format in the fields of the present one."""
    facts = dict(facts)
    major, minor = map(int, facts.pop("compute_capability"))
    portable = facts.get("hardware") == "ampere_plus"
    names = ("layers", "fused_attentions")
    return {
        "counts": {name: facts.pop(name) for name in names if name in facts},
        "flavour": FULL.name,
        "version": facts.pop("tensorrt"),
        "targets": [PORTABLE if portable else target_text((major, minor))],
        **facts,
    }


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
