"""Examines one scene as a run would read it, and goes on where a run would give up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import rasterio

from mfnet_runtime.contract import Contract
from mfnet_runtime.preflight.dsm_rules import examine_heights
from mfnet_runtime.preflight.dsm_statistics import HeightLook, look_at_heights
from mfnet_runtime.preflight.estimate import Estimate, estimate_of
from mfnet_runtime.preflight.findings import Finding, Findings, Level, worst
from mfnet_runtime.preflight.georeferencing import (
    examine_alignment,
    examine_place,
    examine_same_grid,
)
from mfnet_runtime.preflight.image_rules import examine_image
from mfnet_runtime.preflight.image_statistics import ImageLook, look_at_image
from mfnet_runtime.preflight.raster_info import RasterFacts, facts_from_file
from mfnet_runtime.preflight.statistics import Coverage, sample_of
from mfnet_runtime.preflight.storage import examine_blocks, examine_storage
from mfnet_runtime.raster.grid import grid_of
from mfnet_runtime.raster.open import open_raster
from mfnet_runtime.raster.polygons import VectorOptions
from mfnet_runtime.run.outputs import SceneOutputs
from mfnet_runtime.run.paths import OutputPaths
from mfnet_runtime.scene.aoi import AreaMask
from mfnet_runtime.scene.discovery import Scene, require_files
from mfnet_runtime.scene.dsm import HeightBand
from mfnet_runtime.scene.dsm_report import Alignment
from mfnet_runtime.scene.image import ImageBands
from mfnet_runtime.scene.options import ReadOptions
from mfnet_runtime.scene.reader import SceneReader
from mfnet_runtime.tiling.pipeline import SegmentOptions

CACHE = 128 << 20  # bytes of GDAL's blocks


@dataclass(frozen=True)
class Work:
    """What a run would do, the same for all scenes."""

    contract: Contract
    batch: int  # windows a call, the most
    options: SegmentOptions
    read: ReadOptions
    vectors: VectorOptions | None = None
    folder: Path | None = None  # of the outputs; None: not told

    def paths(self, scene: Scene) -> OutputPaths | None:
        """Where the outputs of a scene would go."""
        if self.folder is None:
            return None
        return OutputPaths.of(self.folder, scene.name, self.options.layers, self.vectors)


@dataclass
class Checkup:
    """What was found out about a scene; None where it could not be."""

    scene: Scene
    findings: Sequence[Finding] = ()
    image: RasterFacts | None = None
    dsm: RasterFacts | None = None
    pixels: ImageLook | None = None
    heights: HeightLook | None = None
    alignment: Alignment | None = None
    estimate: Estimate | None = None
    skipped: int | None = None  # windows, at least; None where not all pixels were looked at
    wanted: float | None = None  # share of the pixels looked at that would get a class
    replaced: list[str] = field(default_factory=list)  # names of files that a run would replace

    @property
    def verdict(self) -> Level:
        """The worst of the findings."""
        return worst(self.findings)

    def to_json(self) -> dict[str, Any]:
        """The scene's part of the JSON summary."""
        parts = {
            "image": (self.image, self.pixels),
            "dsm": (self.dsm, self.heights),
        }
        files: dict[str, Any] = {
            name: {**facts.to_json(), **(look.to_json() if look else {})} if facts else None
            for name, (facts, look) in parts.items()
        }
        work = self.estimate.to_json() if self.estimate else {}
        return {
            "scene": self.scene.name,
            "verdict": self.verdict,
            "findings": [finding.to_json() for finding in self.findings],
            **files,
            "alignment": self.alignment.to_json() if self.alignment else None,
            "windows": work.get("windows"),
            "blocks": work.get("blocks"),
            "memory_bytes": work.get("memory_bytes"),
            "disk_bytes": work.get("disk_bytes"),
            "skipped_windows": self.skipped,
            "classified": None if self.wanted is None else round(self.wanted, 6),
            "replaced": self.replaced,
        }


def checkup_of(scene: Scene, work: Work) -> Checkup:
    """All findings on a scene: everything a run would refuse it for, and what is odd."""
    found, about = Findings(), Checkup(scene)
    with rasterio.Env(GDAL_CACHEMAX=CACHE):
        _examine_files(found, about, work)
    about.findings = tuple(found.made)
    return about


def _examine_files(found: Findings, about: Checkup, work: Work) -> None:
    scene, read = about.scene, work.read
    with found.refusals("run"):
        require_files(scene)
    missing = [finding.text for finding in found.made]
    for role, path, examine in (
        ("image", scene.image, _examine_image),
        ("dsm", scene.dsm, _examine_dsm),
    ):
        if any(text.startswith(f"{path}: ") for text in missing):
            continue
        with found.refusals(role):
            facts = facts_from_file(path, read.limits)
            with open_raster(path, read.limits) as dataset:
                examine(found, about, facts, dataset, work)
    if about.pixels is not None and about.pixels.share < 1:
        found.note(
            "run",
            f"{about.pixels.share:.2%} of the image were looked at, in places all over it; what "
            "is damaged or odd elsewhere only a run shows",
        )
    if about.image and about.dsm:
        if read.align is None:
            examine_same_grid(found, scene, read)
        _examine_together(found, about, work)
    _examine_outputs(found, about, work)


def _examine_image(
    found: Findings, about: Checkup, facts: RasterFacts, image: Any, work: Work
) -> None:
    scene, read = about.scene, work.read
    about.image = facts
    examine_place(found, facts)
    examine_storage(found, facts)
    for area in read.areas:
        with found.refusals("area"):
            AreaMask(area, scene.image, grid_of(image))
    own = scene.dsm_band if scene.dsm == scene.image else None
    plain = replace(read, image_percentiles=None)  # for which the reader makes a pass of its own
    pixels = ImageBands(scene.image, image, work.contract.image.full_scale, plain, own)
    about.pixels = look_at_image(pixels, facts, read, own)
    examine_image(found, pixels, about.pixels, facts, work.contract, read)


def _examine_dsm(found: Findings, about: Checkup, facts: RasterFacts, dsm: Any, work: Work) -> None:
    scene = about.scene
    about.dsm = facts
    if scene.dsm != scene.image:
        examine_storage(found, facts)
    band = HeightBand(scene.dsm, dsm, scene.dsm_band, work.read.dsm_nodata)
    about.heights = look_at_heights(band, facts)
    examine_heights(found, band, about.heights, facts, work.options.dsm or work.contract.dsm)


def _examine_together(found: Findings, about: Checkup, work: Work) -> None:
    """As a run opens the scene: what it refuses that the parts alone did not show."""
    contract = work.contract
    with (
        found.refusals("grid"),
        SceneReader(about.scene, contract.image.full_scale, work.read) as reader,
    ):
        about.alignment = reader.alignment
        if reader.alignment is not None:
            examine_alignment(found, reader.alignment)
        with found.refusals("run"):
            about.estimate = estimate_of(reader, contract, work.batch, work.options, 0.0)
        if about.estimate is not None:
            examine_blocks(found, [about.image, about.dsm], about.estimate.blocks)
        if (paths := work.paths(about.scene)) is not None:
            with found.refusals("output"):
                SceneOutputs(
                    paths,
                    (reader.height, reader.width),
                    contract.classes,
                    reader.profile,
                    {},
                    work.vectors,
                )
        if not found.refused("image", "dsm", "area"):
            for warning in reader.report().warnings:
                found.warning("image", warning)
            _examine_cover(found, about, reader, work)


def _examine_cover(found: Findings, about: Checkup, reader: SceneReader, work: Work) -> None:
    """How much of the scene would get a class: where image, DSM and areas overlap."""
    with open_raster(about.scene.image, work.read.limits) as image:
        sample = sample_of(image)
    cover, seen = Coverage(reader.height, reader.width), 0
    for window in sample.windows:
        columns = range(window.col_off, window.col_off + window.width)
        rows = reader.read(window.row_off, window.row_off + window.height, columns)
        cover.add(window, rows.wanted)
        seen += rows.wanted.size
    about.wanted = cover.wanted / max(seen, 1)
    if sample.whole:
        grid = work.options.grid(reader.height, reader.width, work.contract.window)
        about.skipped = cover.empty(grid)
    alone = about.pixels and about.heights and about.pixels.valid and about.heights.valid
    if not cover.wanted and alone:
        found.warning(
            "run",
            f"{about.scene.image}: no pixel has colour, height and lies in the area asked for: "
            "nothing would get a class; compare image, DSM and area in QGIS",
        )


def _examine_outputs(found: Findings, about: Checkup, work: Work) -> None:
    paths = work.paths(about.scene)
    if paths is None:
        return
    with found.refusals("output"):
        paths.require_short_names()
        about.replaced = [path.name for path in paths.all if path.exists()]
