"""The contract: what a model file promises, as JSON inside it. Knows no files and no engines.

One contract is written by the trainer into the checkpoint, carried by the exporter into the
ONNX file (`metadata_props`, key `METADATA_KEY`) or beside a plan, and is all that the runtime
knows about a model.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field, replace
from operator import index
from typing import Any, Literal

from mfnet_runtime.errors import ModelError
from mfnet_runtime.labels import PLAIN_NAME, ClassTable, is_plain_name
from mfnet_runtime.strict_json import json_from_text

FORMAT = "mfnet-contract/1"
METADATA_KEY = "mfnet.contract"
MAX_WINDOW = 4096  # pixels; a larger one is a damaged file, not a network
DSM_RULES = ("scene_minmax", "scene_percentile", "range")
PRECISIONS = ("fp32", "fp16", "bf16", "int8")

DsmRuleName = Literal["scene_minmax", "scene_percentile", "range"]


@dataclass(frozen=True)
class ImageRule:
    """How pixel values become network input: `value / full_scale`, no mean or deviation."""

    bands: tuple[str, ...] = ("red", "green", "blue")  # meaning of each input band, in order
    full_scale: float = 255.0  # the pixel value that becomes 1.0

    def __post_init__(self) -> None:
        if len(self.bands) != 3:
            raise ModelError(f"image rule names {len(self.bands)} bands; the network takes 3")
        for band in self.bands:
            if not is_plain_name(band):
                raise ModelError(f"band name {band!r:.80} must be {PLAIN_NAME}")
        if not 0 < self.full_scale < math.inf:
            raise ModelError(f"image full scale is {self.full_scale}; expected a positive number")


@dataclass(frozen=True)
class DsmRule:
    """How heights become [0, 1]: (height - low) / (high - low), clipped.

    `scene_minmax` takes low and high from the valid pixels of the whole scene, as published;
    `scene_percentile` takes the percentiles `low` and `high` of them, which one wrong spike cannot
    move; `range` uses `low` and `high` in metres for every scene.
    """

    name: DsmRuleName = "scene_minmax"
    low: float = 0.0  # percent for scene_percentile, metres for range, unused for scene_minmax
    high: float = 100.0

    def __post_init__(self) -> None:
        if self.name not in DSM_RULES:
            raise ModelError(f"DSM rule {self.name!r:.80} is not one of {', '.join(DSM_RULES)}")
        if not -math.inf < self.low < self.high < math.inf:
            raise ModelError(f"DSM rule {self.name}: low {self.low} is not below high {self.high}")
        if self.name == "scene_percentile" and not (self.low >= 0 and self.high <= 100):
            raise ModelError(f"DSM percentiles {self.low} and {self.high} must lie in 0..100")


@dataclass(frozen=True)
class Contract:
    """Everything a runtime must know to feed a model and to name what comes out."""

    window: int  # pixels a side; inputs are (N, 3, window, window) and (N, 1, window, window)
    classes: ClassTable
    image: ImageRule = ImageRule()
    dsm: DsmRule = DsmRule()
    precision: str = "fp32"
    provenance: dict[str, Any] = field(default_factory=dict)  # who made it from what; no paths

    def __post_init__(self) -> None:
        if not 32 <= self.window <= MAX_WINDOW or self.window % 32:
            raise ModelError(
                f"window is {self.window} px; expected a multiple of 32, at most {MAX_WINDOW}"
            )
        if self.precision not in PRECISIONS:
            raise ModelError(
                f"precision {self.precision!r:.80} is not one of {', '.join(PRECISIONS)}"
            )

    def with_provenance(self, **facts: Any) -> Contract:
        """The same contract with facts added to its provenance."""
        return replace(self, provenance={**self.provenance, **facts})

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types only."""
        return {
            "format": FORMAT,
            "window": self.window,
            "classes": self.classes.to_json(),
            "image": {"bands": list(self.image.bands), "full_scale": self.image.full_scale},
            "dsm": {"rule": self.dsm.name, "low": self.dsm.low, "high": self.dsm.high},
            "precision": self.precision,
            "provenance": self.provenance,
        }

    def to_json(self) -> str:
        """Compact JSON text, keys sorted, so that equal contracts are equal texts."""
        return json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))

    @staticmethod
    def from_dict(data: Any) -> Contract:
        """Inverse of `to_dict`.

        Raises:
            ModelError: another format, a missing field, or a value out of its range.
        """
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            found = data.get("format") if isinstance(data, dict) else type(data).__name__
            raise ModelError(f"contract has format {found!r:.80}; this version reads {FORMAT!r}")
        try:
            image = ImageRule(
                tuple(str(band) for band in data["image"]["bands"]),
                float(data["image"]["full_scale"]),
            )
            dsm = DsmRule(
                data["dsm"]["rule"], float(data["dsm"]["low"]), float(data["dsm"]["high"])
            )
            return Contract(
                window=index(data["window"]),
                classes=ClassTable.from_json(data["classes"]),
                image=image,
                dsm=dsm,
                precision=str(data["precision"]),
                provenance=dict(data["provenance"]),
            )
        except (KeyError, TypeError, ValueError, OverflowError) as fault:
            raise ModelError(f"contract is malformed: {fault!r:.200}") from fault

    @staticmethod
    def from_json(text: str) -> Contract:
        """Inverse of `to_json`.

        Raises:
            ModelError: not JSON (see `strict_json`), or not a contract.
        """
        try:
            data = json_from_text(text)
        except ValueError as fault:
            raise ModelError(f"contract is not JSON: {fault}") from fault
        return Contract.from_dict(data)
