"""What became of a scene: its row of the JSON summary, and of the manifest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mfnet_runtime.run.outputs import SceneOutputs
from mfnet_runtime.run.paths import OutputPaths
from mfnet_runtime.scene.reader import ReadReport
from mfnet_runtime.tiling.pipeline import SceneReport


@dataclass(frozen=True)
class SceneOutcome:
    """The row of a scene."""

    row: dict[str, Any]  # plain JSON types only
    report: SceneReport | None = None  # of the parts made in this process

    @property
    def failed(self) -> bool:
        """It has no outputs of this run."""
        return bool(self.row["status"] == "failed")

    @property
    def error(self) -> str | None:
        """Why it failed."""
        return self.row.get("error")


def failed_scene(scene: str, error: str) -> SceneOutcome:
    """It could not be read, or its outputs not be made."""
    return SceneOutcome({"scene": scene, "status": "failed", "error": error})


def shared_scene(scene: str, report: SceneReport | None = None) -> SceneOutcome:
    """This process did its part, if any; who does the last one writes the outputs."""
    windows = report.windows if report else 0
    return SceneOutcome({"scene": scene, "status": "shared", "windows": windows}, report)


def earlier_scene(done: dict[str, Any], outputs: OutputPaths) -> SceneOutcome:
    """Finished before this process came to it: the row is the manifest's.

    Args:
        done: Its record.
        outputs: Where its files are now.
    """
    return SceneOutcome({**done["row"], **_places(outputs), "resumed": True})


def finished_row(
    scene: str,
    classes: Sequence[str],
    report: SceneReport,
    read: ReadReport,
    warnings: Sequence[str],
    written: SceneOutputs,
) -> dict[str, Any]:
    """The row of a finished scene, without the folder it is in.

    Args:
        scene: Its name.
        classes: Their names.
        report: Of the pixels; of the parts made in this process.
        read: Of the files.
        warnings: What is odd about them.
        written: Left.
    """
    pixels, m2 = written.areas.pixels, written.areas.m2
    shares = m2 or [float(count) for count in pixels]
    whole = sum(shares) or 1.0
    return {
        "scene": scene,
        "status": "done",
        "windows": report.windows,
        "blocks": report.blocks,
        "skipped_windows": report.skipped,
        "batch": report.batch,
        "dsm_low": report.dsm.low,
        "dsm_high": report.dsm.high,
        "dsm_constant": report.dsm.constant,
        **read.to_json(),
        "warnings": list(warnings),
        "class_pixels": dict(zip(classes, pixels, strict=True)),
        "class_percent": {
            name: round(100 * share / whole, 4) for name, share in zip(classes, shares, strict=True)
        },
        "class_area_m2": dict(zip(classes, m2, strict=True)) if m2 else None,
        "area_from": written.areas.how,
        "nodata_pixels": written.nodata,
        "valid_pixels": sum(pixels),
        "backend_s": round(report.backend_s, 4),
        "total_s": round(report.total_s, 4),
    }


def done_scene(row: dict[str, Any], outputs: OutputPaths, report: SceneReport) -> SceneOutcome:
    """Finished in this process."""
    return SceneOutcome({**row, **_places(outputs), "resumed": False}, report)


def _places(outputs: OutputPaths) -> dict[str, Any]:
    return {"output": str(outputs.classes), **outputs.to_json()}
