"""The contract: the JSON in a model file that describes its inputs, scaling and classes.

The trainer writes it into the checkpoint, the exporter copies it into the ONNX file
(`metadata_props`, key `METADATA_KEY`) or beside a plan; the runtime knows nothing else of a model.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field, replace
from operator import index
from pathlib import Path
from typing import Any, Literal

from mfnet_runtime.errors import ModelError
from mfnet_runtime.labels import PLAIN_NAME, ClassTable, is_plain_name

FORMAT = "mfnet-contract/1"
METADATA_KEY = "mfnet.contract"
MAX_WINDOW = 4096  # pixels; anything larger is a damaged file
DSM_RULES = ("scene_minmax", "scene_percentile", "range")
PRECISIONS = ("fp32", "fp16", "bf16", "int8", "int8+fp16")
MAX_JSON = 1 << 20  # characters; a contract has a few thousand
MAX_DEPTH = 32  # of nested lists and objects

DsmRuleName = Literal["scene_minmax", "scene_percentile", "range"]


@dataclass(frozen=True)
class ImageRule:
    """Scaling of pixels to network input: `value / full_scale`, without mean and deviation."""

    bands: tuple[str, ...] = ("red", "green", "blue")  # meaning of each input band, in order
    full_scale: float = 255.0  # pixel value that becomes 1.0

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
    """Scaling of heights to [0, 1]: (height - low) / (high - low), clipped.

    `scene_minmax` takes low and high from the valid pixels of the whole scene, as published;
    `scene_percentile` takes their percentiles `low` and `high`, which a few outliers cannot move;
    `range` uses `low` and `high` in metres for every scene.
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
    """Everything needed to feed a model and to name its classes."""

    window: int  # side in pixels; inputs are (N, 3, window, window) and (N, 1, window, window)
    classes: ClassTable
    image: ImageRule = ImageRule()
    dsm: DsmRule = DsmRule()
    precision: str = "fp32"
    pixel_size: float | None = None  # of the training images, metres on the ground; None: unknown
    provenance: dict[str, Any] = field(default_factory=dict)  # origin of the model, without paths

    def __post_init__(self) -> None:
        if not 32 <= self.window <= MAX_WINDOW or self.window % 32:
            raise ModelError(
                f"window is {self.window} px; expected a multiple of 32, at most {MAX_WINDOW}"
            )
        if self.precision not in PRECISIONS:
            raise ModelError(
                f"precision {self.precision!r:.80} is not one of {', '.join(PRECISIONS)}"
            )
        if self.pixel_size is not None and not 0 < self.pixel_size < math.inf:
            raise ModelError(f"pixel size is {self.pixel_size} m; expected a positive number")

    def with_provenance(self, **facts: Any) -> Contract:
        """Return a copy with facts added to its provenance."""
        return replace(self, provenance={**self.provenance, **facts})

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {
            "format": FORMAT,
            "window": self.window,
            "classes": self.classes.to_json(),
            "image": {"bands": list(self.image.bands), "full_scale": self.image.full_scale},
            "dsm": {"rule": self.dsm.name, "low": self.dsm.low, "high": self.dsm.high},
            "precision": self.precision,
            "pixel_size": self.pixel_size,
            "provenance": self.provenance,
        }

    def to_json(self) -> str:
        """Return compact JSON with sorted keys: equal contracts give equal texts."""
        return json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))

    @staticmethod
    def from_dict(data: Any) -> Contract:
        """Parse the output of `to_dict`, also of versions with fewer fields, or with more.

        Raises:
            ModelError: another format, a missing field, or a value out of range.
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
            size = data.get("pixel_size")  # older files have none
            return Contract(
                window=index(data["window"]),
                classes=ClassTable.from_json(data["classes"]),
                image=image,
                dsm=dsm,
                precision=str(data["precision"]),
                pixel_size=None if size is None else float(size),
                provenance=dict(data["provenance"]),
            )
        except (KeyError, TypeError, ValueError, OverflowError) as fault:
            raise ModelError(f"contract is malformed: {fault!r:.200}") from fault

    @staticmethod
    def from_json(text: str) -> Contract:
        """Parse the output of `to_json`.

        Raises:
            ModelError: not JSON (see `json_from_text`), or not a contract.
        """
        try:
            data = json_from_text(text)
        except ValueError as fault:
            raise ModelError(f"contract is not JSON: {fault}") from fault
        return Contract.from_dict(data)


def json_from_text(text: str) -> Any:
    """Parse JSON from an untrusted file: bounded length and depth, unique keys, finite numbers.

    Raises:
        ValueError: not such JSON; the message does not quote the text.
    """
    if len(text) > MAX_JSON:
        raise ValueError(f"{len(text)} characters; the limit is {MAX_JSON}")
    try:
        data = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("nested too deep") from None
    _require_shallow(data, MAX_DEPTH)
    return data


def json_from_file(path: Path) -> Any:
    """Parse a file of UTF-8 text; see `json_from_text`.

    Raises:
        OSError: the file cannot be read.
        ValueError: see `json_from_text`.
    """
    with path.open("rb") as file:
        return json_from_text(file.read(4 * MAX_JSON + 1).decode("utf-8"))


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        double = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"{double[:60]!r} is there twice")
    return found


def _refuse_constant(word: str) -> Any:
    raise ValueError(f"{word} is not a number")


def _require_shallow(data: Any, left: int) -> None:
    if not left:
        raise ValueError(f"nested deeper than {MAX_DEPTH}")
    if isinstance(data, dict | list):
        for part in data.values() if isinstance(data, dict) else data:
            _require_shallow(part, left - 1)
