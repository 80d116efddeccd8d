"""What a fake plan holds: the ONNX file it was built from, and the settings of the build."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from typing import Any

MAGIC = b"fake plan\0"
Shapes = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]  # min, opt, max


@dataclass(frozen=True)
class FakePlan:
    """Enough to run the network and to tell what was asked of the builder."""

    version: str  # that built it
    onnx: bytes  # weights inside
    profile: dict[str, Shapes]
    flags: frozenset[str]  # names of BuilderFlag
    hardware: str  # name of HardwareCompatibilityLevel
    layers: list[Any]  # as the inspector lists them

    def to_bytes(self) -> bytes:
        """Inverse of `plan_from_bytes`."""
        return MAGIC + pickle.dumps(self)


def plan_from_bytes(data: bytes) -> FakePlan | None:
    """None where TensorRT would find no plan."""
    if not data.startswith(MAGIC):
        return None
    try:
        plan: FakePlan = pickle.loads(data[len(MAGIC) :])
    except (pickle.UnpicklingError, EOFError):
        return None
    return plan
