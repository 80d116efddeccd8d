"""`mfnet-run --check`: model, scenes and output folder are examined, and nothing is written."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from mfnet_runtime.checks.findings import Findings, exit_code_of
from mfnet_runtime.console import say
from mfnet_runtime.preflight.model import ModelRequest, largest_batch, model_info
from mfnet_runtime.preflight.outputs import check_disk, check_folder, check_packages
from mfnet_runtime.preflight.report import finding_lines, model_lines, scene_lines, summary_line
from mfnet_runtime.preflight.scene import RunRequest, check_scene
from mfnet_runtime.run.options import NO_VECTORS, VectorOptions
from mfnet_runtime.scene.discovery import Scene
from mfnet_runtime.scene.options import ReadOptions
from mfnet_runtime.tiling.options import SegmentOptions


def check_scenes(
    request: ModelRequest,
    scenes: Sequence[Scene],
    folder: Path | None,
    options: SegmentOptions,
    read: ReadOptions,
    vectors: VectorOptions = NO_VECTORS,
    as_json: bool = False,
    quiet: bool = False,
) -> int:
    """Print what a run would refuse, what is odd, and what it would cost.

    Args:
        request: The model and how to run it.
        scenes: The scenes to segment.
        folder: Output folder; None if it is not given.
        options: How to segment.
        read: How to read.
        vectors: Polygons to write as well.
        as_json: Print one JSON object instead of text.
        quiet: Print only warnings and refusals.

    Returns:
        The exit code: 0 if nothing would be refused, 4 if a scene would be, else that of the run.

    Raises:
        UsageError: the model file is missing, no backend runs it as requested, or it states no
            pixel size to resample to.
        ModelError: it has no contract or is damaged.
    """

    def show(lines: Iterable[str]) -> None:
        for line in () if as_json else lines:
            say(line)

    found = Findings()
    model = model_info(found, request)
    batch = largest_batch(found, options.batch, model.batches)
    read = read.for_model(model.contract)
    run = RunRequest(model.contract, batch, options, read, vectors, folder)
    if vectors.vectors is not None:
        check_packages(found, vectors.vectors, bool(vectors.simplify))
    if folder is not None:
        check_folder(found, folder, scenes, [run.paths(folder, scene) for scene in scenes])
    show(model_lines(model))
    show(finding_lines(found.all, quiet))
    checks = []
    for scene in scenes:
        checks.append(check_scene(scene, run))
        show(scene_lines(checks[-1], quiet))
    disk = Findings()
    if folder is not None:
        check_disk(disk, folder, sum(one.estimate.disk for one in checks if one.estimate))
    show(finding_lines(disk.all, quiet))
    of_run = [*found.all, *disk.all]
    code = exit_code_of([*of_run, *(finding for check in checks for finding in check.findings)])
    show([summary_line(checks, code)])
    if as_json:
        summary = {
            **model.to_json(),
            "findings": [finding.to_json() for finding in of_run],
            "refused": sum(check.verdict == "refused" for check in checks),
            "scenes": [check.to_json() for check in checks],
        }
        say(json.dumps(summary))
    return code
