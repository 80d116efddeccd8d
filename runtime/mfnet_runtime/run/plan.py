"""Planning: what to do with a scene, as tasks. Done by the process that coordinates a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil, lcm
from pathlib import Path
from typing import Any

from mfnet_runtime.checks.scene import warnings_for
from mfnet_runtime.contract import Contract
from mfnet_runtime.errors import SceneError
from mfnet_runtime.run.inputs import Input, require_unchanged
from mfnet_runtime.run.task import Task
from mfnet_runtime.scene.discovery import Scene
from mfnet_runtime.scene.normalize import DsmRange, dsm_range
from mfnet_runtime.scene.options import ReadOptions
from mfnet_runtime.scene.reader import ReadReport, SceneReader
from mfnet_runtime.tiling.grid import WindowGrid
from mfnet_runtime.tiling.memory import STEP, block_width, pixel_memory
from mfnet_runtime.tiling.options import SegmentOptions

MIN_ROWS = 2048  # of a block
ROWS_PER_REPEATED = 32  # rows of windows in a block for each that is inferred twice: 3 %


@dataclass(frozen=True)
class ScenePlan:
    """A scene that can be segmented, and the tasks it takes."""

    scene: Scene
    inputs: tuple[Input, ...]
    span: DsmRange  # heights scaled to 0 and 1
    tasks: tuple[Task, ...]  # they cover the scene
    folder: Path  # for temporary files
    shape: tuple[int, int]  # rows and columns, pixels
    place: dict[str, Any]  # `crs` and `transform`, or `gcps`, of the image; without None
    read: ReadReport
    warnings: tuple[str, ...]


def plan_scene(
    scene: Scene,
    contract: Contract,
    options: SegmentOptions,
    read: ReadOptions,
    *,
    settings: str,
    folder: Path,
    batch: int,
    known: Sequence[Input] | None = None,
) -> ScenePlan:
    """Open a scene, take the statistics that all its blocks share, and cut it into tasks.

    Args:
        scene: The files.
        contract: Of the model.
        options: How to segment.
        read: How to read.
        settings: Digest of everything but the scene that outputs depend on.
        folder: For temporary files of the scene; exists.
        batch: The most windows that one call may have.
        known: Its inputs, if they were recorded by an earlier run that is continued.

    Raises:
        InputChangedError: an input is not as it was recorded.
        SceneError: a file is missing or damaged, or does not fit the model.
        UsageError: the scene's pixels do not fit in the memory allowed.
    """
    with SceneReader(scene, contract.image.full_scale, read, folder) as reader:
        if known:
            require_unchanged(scene, known, read.limits, reader.files)
        files = reader.files
        inputs = tuple(known or (Input.of(scene, *file, read.limits) for file in files))
        blocks = scene_blocks(reader, contract, options, batch)
        with reader.small_cache(max(len(block.under) for block in blocks)):
            span = dsm_range(options.dsm_rule(contract.dsm), reader.heights)
            report = reader.report()
            warnings = tuple(one.text for one in warnings_for(reader, contract, span))
        place = {key: value for key, value in reader.profile.items() if value is not None}
        read = read.with_image_range(report.image_range)
        scaling = reader.scaling
        places = [scaling.covered(block.made_rows, block.made) for block in blocks]
        needs = pixel_memory(reader, blocks[0], contract, batch, options.sum)
        tasks = tuple(
            Task(
                scene,
                block,
                span,
                inputs,
                settings,
                read,
                options,
                folder,
                block_place,
                needs.of(len(block.under)),
            )
            for block, block_place in zip(blocks, places, strict=True)
            if all(block_place)  # small pixels at a border may cover the centre of none
        )
        shape = scaling.image.height, scaling.image.width
    return ScenePlan(scene, inputs, span, tasks, folder, shape, place, report, warnings)


def scene_blocks(
    reader: SceneReader, contract: Contract, options: SegmentOptions, batch: int
) -> list[WindowGrid]:
    """Cut an open scene into blocks that fit in memory, row by row.

    Args:
        reader: The scene.
        contract: Of the model.
        options: How to segment; their `block` is the width.
        batch: The most windows that one call may have.

    Raises:
        SceneError: resampled, the scene is smaller than a window.
        UsageError: the narrowest block does not fit in the memory allowed.
    """
    if reader.scaling.changes and min(reader.height, reader.width) < contract.window:
        raise SceneError(
            f"{reader.scene.image}: would be read as {reader.width} x {reader.height} px, less "
            f"than a window of {contract.window} px; give a smaller --resample-to"
        )
    grid = options.grid(reader.height, reader.width, contract.window)
    needs = pixel_memory(reader, grid, contract, batch, options.sum)
    width = options.block or block_width(grid, needs, options.max_memory)
    height = block_height(grid)
    bands = [range(top, min(top + height, grid.height)) for top in range(0, grid.height, height)]
    return [replace(column, band=band) for band in bands for column in grid.blocks(width)]


def block_height(grid: WindowGrid) -> int:
    """Return the rows of a block: few windows are repeated at borders, few lost by a crash.

    A multiple of the stride, and of output tiles where that is not much more.
    """
    repeated = ceil(grid.window / grid.stride) - 1  # rows of windows that reach over a border
    least = max(MIN_ROWS, repeated * grid.stride * ROWS_PER_REPEATED)
    step = lcm(grid.stride, STEP)
    if step > least:
        step = grid.stride
    return ceil(least / step) * step
