"""What `mfnet-run --check` prints, and the code it ends with."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from mfnet_runtime.console import say
from mfnet_runtime.preflight.findings import Findings, exit_code_of
from mfnet_runtime.preflight.model import ModelWords as ModelWords
from mfnet_runtime.preflight.model import largest_batch, model_facts
from mfnet_runtime.preflight.places import examine_disk, examine_folder
from mfnet_runtime.preflight.report import model_lines, run_lines, scene_lines, summary_line
from mfnet_runtime.preflight.scene import Work, checkup_of
from mfnet_runtime.raster.polygons import VectorOptions
from mfnet_runtime.scene.discovery import Scene
from mfnet_runtime.scene.options import ReadOptions
from mfnet_runtime.tiling.pipeline import SegmentOptions


def checked_scenes(
    words: ModelWords,
    scenes: Sequence[Scene],
    folder: Path | None,
    options: SegmentOptions,
    read: ReadOptions,
    vectors: VectorOptions | None = None,
    as_json: bool = False,
    quiet: bool = False,
) -> int:
    """Examine a run without running it; nothing is written.

    Args:
        words: What was asked for about the model.
        scenes: What would be segmented.
        folder: Of the outputs; None where it was not told.
        options: How they would be segmented.
        read: How they would be read.
        vectors: Polygons that would be made too.
        as_json: One object in place of lines.
        quiet: Only scenes with warnings or refusals, without tables.

    Returns:
        0 where nothing would be refused, 4 where some scene would be, or the code of the run.

    Raises:
        UsageError: the model is missing, or nothing runs it as asked.
        ModelError: it has no contract, or a damaged one.
    """

    def tell(lines: Iterable[str]) -> None:
        for line in () if as_json else lines:
            say(line)

    found, end = Findings(), Findings()
    model = model_facts(found, words)
    batch = largest_batch(found, options.batch, model.batches)
    work = Work(model.contract, batch, options, read, vectors, folder)
    examine_folder(found, scenes, work)
    tell(model_lines(model))
    tell(run_lines(found.made, quiet))
    checkups = []
    for scene in scenes:
        checkups.append(checkup_of(scene, work))
        tell(scene_lines(checkups[-1], quiet))
    if folder is not None:
        examine_disk(end, folder, checkups)
    tell(run_lines(end.made, quiet))
    run = [*found.made, *end.made]
    code = exit_code_of([*run, *(one for checkup in checkups for one in checkup.findings)])
    tell([summary_line(checkups, code)])
    if as_json:
        summary = {
            **model.to_json(),
            "findings": [finding.to_json() for finding in run],
            "refused": sum(checkup.verdict == "refused" for checkup in checkups),
            "scenes": [checkup.to_json() for checkup in checkups],
        }
        say(json.dumps(summary))
    return code
