"""Results of `--check` and `--dry-run` for a scene."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from mfnet_runtime.checks.findings import Finding, Level, worst
from mfnet_runtime.checks.statistics import Statistics
from mfnet_runtime.preflight.rasters import RasterInfo
from mfnet_runtime.scene.discovery import Scene
from mfnet_runtime.scene.dsm_alignment import Alignment


@dataclass(frozen=True)
class Estimate:
    """Upper bounds for one scene: empty windows cost nothing, and outputs compress well."""

    scene: str
    height: int  # pixels
    width: int
    resampled: dict[str, Any] | None  # as what it is read, see `Scaling.to_json`
    windows: int  # those on borders of blocks counted twice
    blocks: int
    memory: int  # bytes for pixels at a time, besides Python, the model and its engine
    disk: int  # bytes while outputs are written, temporary files included, polygons not
    seconds: float  # in the backend

    def to_json(self) -> dict[str, Any]:
        """Return the scene's part of the JSON summary."""
        return {
            "scene": self.scene,
            "status": "estimated",
            "height": self.height,
            "width": self.width,
            "resampled": self.resampled,
            "windows": self.windows,
            "blocks": self.blocks,
            "memory_bytes": self.memory,
            "disk_bytes": self.disk,
            "backend_s": round(self.seconds, 4),
        }


@dataclass
class SceneCheck:
    """The facts of a scene; None for those that could not be found."""

    scene: Scene
    findings: Sequence[Finding] = ()
    image: RasterInfo | None = None
    dsm: RasterInfo | None = None
    image_values: Statistics | None = None
    heights: Statistics | None = None
    alignment: Alignment | None = None
    estimate: Estimate | None = None
    skipped: int | None = None  # windows; None if only a sample was read
    classified: float | None = None  # share of the pixels that were read
    replaced: list[str] = field(default_factory=list)  # names of files that would be replaced

    @property
    def verdict(self) -> Level:
        """The most serious level of all findings."""
        return worst(self.findings)

    def to_json(self) -> dict[str, Any]:
        """Return the scene's part of the JSON summary."""
        cost = self.estimate.to_json() if self.estimate else {}
        heights = _json(self.heights)
        for end in ("low", "high"):  # a DSM has one band
            heights[end] = next(iter(heights.get(end, ())), None)
        return {
            "scene": self.scene.name,
            "verdict": self.verdict,
            "findings": [finding.to_json() for finding in self.findings],
            "image": {**self.image.to_json(), **_json(self.image_values)} if self.image else None,
            "dsm": {**self.dsm.to_json(), **heights} if self.dsm else None,
            "alignment": self.alignment.to_json() if self.alignment else None,
            **{key: cost.get(key) for key in ("windows", "blocks", "memory_bytes", "disk_bytes")},
            "skipped_windows": self.skipped,
            "classified": None if self.classified is None else round(self.classified, 6),
            "replaced": self.replaced,
        }


def _json(found: Statistics | None) -> dict[str, Any]:
    if found is None:
        return {}
    return {
        "looked_at": round(found.share, 4),
        "valid": round(found.valid, 6),
        "masked": {name: round(share, 6) for name, share in found.masked.items()},
        "low": list(found.low),
        "high": list(found.high),
        "percentiles_1_99": list(found.common) if found.valid else None,
    }
