"""Checks of one scene: read as a run would, but going on where a run would stop."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import rasterio

from mfnet_runtime.checks import dsm as dsm_rules
from mfnet_runtime.checks import image as image_rules
from mfnet_runtime.checks import scene as scene_rules
from mfnet_runtime.checks.findings import Findings
from mfnet_runtime.checks.statistics import THOROUGH, Statistics, dsm_statistics, image_statistics
from mfnet_runtime.console import one_line
from mfnet_runtime.contract import Contract, DsmRule
from mfnet_runtime.errors import SceneError
from mfnet_runtime.network.url import Url
from mfnet_runtime.preflight.estimate import estimate
from mfnet_runtime.preflight.rasters import (
    georeferencing,
    raster_info,
    storage,
    strips,
)
from mfnet_runtime.preflight.results import SceneCheck
from mfnet_runtime.raster.crs import height_system
from mfnet_runtime.raster.grid import grid_of, mismatch
from mfnet_runtime.raster.open import open_raster
from mfnet_runtime.run.options import NO_VECTORS, VectorOptions
from mfnet_runtime.run.outputs import OutputPaths
from mfnet_runtime.scene.aoi import AreaMask
from mfnet_runtime.scene.discovery import Scene, require_files
from mfnet_runtime.scene.dsm import HeightBand
from mfnet_runtime.scene.image import ImageBands
from mfnet_runtime.scene.normalize import BoolArray, DsmRange, valid_range
from mfnet_runtime.scene.options import ReadOptions
from mfnet_runtime.scene.reader import SceneReader
from mfnet_runtime.tiling.grid import WindowGrid
from mfnet_runtime.tiling.options import SegmentOptions

CACHE = 128 << 20  # bytes of GDAL's block cache


@dataclass(frozen=True)
class RunRequest:
    """The settings of a run, the same for all scenes."""

    contract: Contract
    batch: int  # the most windows of a call
    options: SegmentOptions
    read: ReadOptions
    vectors: VectorOptions = NO_VECTORS
    folder: Path | None = None  # for outputs; None if it is not given

    def paths(self, folder: Path, scene: Scene) -> OutputPaths:
        """Return where the outputs of a scene would go."""
        return OutputPaths.of(folder, scene.name, self.options, self.vectors)


def check_scene(scene: Scene, run: RunRequest) -> SceneCheck:
    """Find everything a run would refuse a scene for, and what is odd about it."""
    found, check = Findings(), SceneCheck(scene)
    with rasterio.Env(GDAL_CACHEMAX=CACHE):
        with found.refusals("run"):
            require_files(scene)
        for about, path, check_part in (
            ("image", scene.image, _check_image),
            ("dsm", scene.dsm, _check_dsm),
        ):
            if isinstance(path, Url) or os.path.lexists(path):
                with found.refusals(about):
                    check_part(found, check, run)
        if check.image_values is not None and check.image_values.share < 1:
            text = (
                f"a sample of {check.image_values.share:.2%} of the image was read; only a run "
                "shows what is damaged or odd elsewhere"
            )
            found.add("run", [("note", text)])
        if check.image and check.dsm:
            if not run.read.align:
                _check_grid(found, scene, run.read)
            _check_together(found, check, run)
        if run.folder is not None:
            paths = run.paths(run.folder, scene)
            with found.refusals("output"):
                paths.require_short_names()
                check.replaced = [path.name for path in paths.all if path.exists()]
    check.findings = tuple(found.all)
    return check


def _check_image(found: Findings, check: SceneCheck, run: RunRequest) -> None:
    path, read, contract = check.scene.image, run.read, run.contract
    check.image = raster_info(path, read.limits)
    found.add("grid", georeferencing(check.image))
    found.add("run", storage(check.image))
    with open_raster(path, read.limits) as dataset:
        for area in read.areas:
            with found.refusals("area"):
                AreaMask(area, path, grid_of(dataset))
        # the reader itself finds percentiles, in another pass
        plain = replace(read, image_percentiles=None)
        own = check.scene.dsm_band if check.scene.dsm == path else None
        bands = ImageBands(path, dataset, contract.image.full_scale, plain, own)
        check.image_values = image_statistics(bands, read, THOROUGH)
        facts = image_rules.ImageFacts(bands, check.image_values, contract, read)
        for rule in image_rules.RULES:
            with found.refusals("image"):
                found.add("image", rule(facts))


def _check_dsm(found: Findings, check: SceneCheck, run: RunRequest) -> None:
    scene, limits = check.scene, run.read.limits
    check.dsm = raster_info(scene.dsm, limits)
    found.add("run", storage(check.dsm))
    with open_raster(scene.dsm, limits) as dataset:
        band = HeightBand(scene.dsm, dataset, scene.dsm_band, run.read.nodata_dsm)
        check.heights = dsm_statistics(band, THOROUGH)
        span = _span(check.heights, run.options.dsm_rule(run.contract.dsm))
        facts = dsm_rules.DsmFacts(band, check.heights, span)
        for rule in dsm_rules.RULES:
            found.add("dsm", rule(facts))


def _span(heights: Statistics, rule: DsmRule) -> DsmRange:
    """Return the heights that become 0 and 1, as far as the sample tells."""
    if rule.name == "range":
        return DsmRange(rule.low, rule.high)
    if not heights.valid:
        return DsmRange(0.0, 0.0, 0)
    if rule.name == "scene_minmax":
        return DsmRange(heights.low[0], heights.high[0], heights.sample.size)
    every = np.ones(heights.sample.shape, np.bool_)
    return DsmRange(*valid_range(lambda: [(heights.sample, every)], (rule.low, rule.high)))


def _check_grid(found: Findings, scene: Scene, read: ReadOptions) -> None:
    """Compare the grids, and say what --align would do about a difference."""
    with (
        found.refusals("grid"),
        open_raster(scene.image, read.limits) as image,
        open_raster(scene.dsm, read.limits) as dsm,
    ):
        found.add("grid", scene_rules.place(scene, image, dsm))
        difference = mismatch(scene.image, image, dsm, read.use_place)
        if difference is None:
            if image.transform.is_identity == dsm.transform.is_identity:
                found.add("grid", [("ok", "image and DSM are on the same grid")])
            if datum := height_system(dsm.crs).datum:
                found.add("dsm", [("ok", f"heights are above {datum}")])
            return
        if found.refused("image", "dsm"):  # else the reader says so
            found.add("grid", [("note", f"{scene.dsm}: {difference}")])
    aligned = replace(
        read, align=True, resample_to=None, image_percentiles=None, aoi=None, bbox=None
    )
    try:
        with SceneReader(scene, options=aligned) as reader:
            assert reader.alignment is not None
            found.add("grid", [("note", f"with --align: {reader.alignment.sentence()}")])
            found.add("grid", scene_rules.alignment(reader.alignment))
    except SceneError as error:
        text = one_line(str(error))
        if all(text != known.text for known in found.all):
            found.add("grid", [("note", f"--align would be refused, too: {text}")])


def _check_together(found: Findings, check: SceneCheck, run: RunRequest) -> None:
    """Open the scene as a run does, and find out what that refuses and costs."""
    scene, contract = check.scene, run.contract
    with (
        found.refusals("grid"),
        SceneReader(scene, contract.image.full_scale, run.read) as reader,
    ):
        check.alignment, scaling = reader.alignment, reader.scaling
        if scaling.changes:
            found.add("grid", [("ok", scaling.sentence())])
        if reader.alignment is not None:
            found.add("grid", [("ok", reader.alignment.sentence())])
            found.add("grid", scene_rules.alignment(reader.alignment))
        with found.refusals("run"):
            check.estimate = estimate(reader, contract, run.batch, run.options)
            for raster in (check.image, check.dsm):
                if raster is not None:
                    found.add("run", strips(raster, check.estimate.blocks))
        if run.folder is not None:
            with found.refusals("output"):
                paths = run.paths(run.folder, scene)
                paths.require_polygons_possible(reader.profile, scaling.image.height, run.vectors)
        if not found.refused("image", "dsm", "area"):
            _check_coverage(found, check, reader, run)


def _check_coverage(
    found: Findings, check: SceneCheck, reader: SceneReader, run: RunRequest
) -> None:
    """Count pixels and windows to classify: where image, DSM and areas overlap."""
    height, width = reader.height, reader.width
    whole = height * width <= THOROUGH.pixels
    wanted = np.zeros((height, width) if whole else (0, 0), np.bool_)
    seen = classified = 0
    for window in THOROUGH.windows(reader.scaling):
        rows, columns = window.toslices()
        piece = reader.sample(window).wanted
        seen, classified = seen + piece.size, classified + int(np.count_nonzero(piece))
        if whole:
            wanted[rows, columns] = piece
    check.classified = classified / seen
    if whole:
        check.skipped = empty_windows(wanted, run.options.grid(height, width, run.contract.window))
    parts = (check.image_values, check.heights)
    if not classified and all(part is not None and part.valid for part in parts):
        text = (
            f"{check.scene.image}: no pixel has both colour and height inside the requested area, "
            "so nothing would get a class; compare image, DSM and area in QGIS"
        )
        found.add("run", [("warning", text)])


def empty_windows(wanted: BoolArray, grid: WindowGrid) -> int:
    """Count windows without a pixel to classify.

    Args:
        wanted: Pixels to classify, (row, column).
        grid: Windows of the scene.
    """
    starts = np.array([offset.start for offset in grid.columns])
    ends = np.minimum(starts + grid.window, wanted.shape[1])
    empty = 0
    for row in grid.rows:
        columns = wanted[row.start : row.start + grid.window].any(axis=0)
        filled = np.append(0, columns.cumsum())  # columns with such a pixel, up to each
        empty += int(np.count_nonzero(filled[starts] == filled[ends]))
    return empty
