"""Where an image and its DSM lie: each alone, and one to the other."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mfnet_runtime.cli.read_options import DEFAULT_RESAMPLING
from mfnet_runtime.errors import SceneError
from mfnet_runtime.preflight.findings import Findings
from mfnet_runtime.preflight.raster_info import RasterFacts
from mfnet_runtime.raster.crs import datum_name, height_system
from mfnet_runtime.raster.grid import mismatch
from mfnet_runtime.raster.open import open_raster
from mfnet_runtime.scene.discovery import Scene
from mfnet_runtime.scene.dsm_report import Alignment
from mfnet_runtime.scene.options import ReadOptions
from mfnet_runtime.scene.reader import SceneReader

COVERED = 0.9  # share of the image that a DSM should cover
COARSE = 4.0  # image pixels across a DSM pixel, from which edges of roofs are lost


def examine_place(found: Findings, facts: RasterFacts) -> None:
    """Findings on the place of an image."""
    if facts.placed == "nothing":
        found.note("grid", "the image has no place on Earth, and so will the outputs")
    elif facts.crs == "unknown":
        found.note("grid", "the image states no CRS, so class areas in m2 are not known")
    if facts.placed == "ground control points":
        found.note(
            "grid",
            "the image has ground control points and no transform; outputs get the same points, "
            "polygons and --align need gdalwarp first",
        )
    if facts.turned:
        found.note("grid", "the image is turned or mirrored against its map; outputs are alike")
    if facts.unit == "degree":
        found.note(
            "grid",
            "pixels are degrees, on the ground narrower than high, and a model knows square ones; "
            "gdalwarp -t_srs makes them",
        )


def examine_same_grid(found: Findings, scene: Scene, read: ReadOptions) -> None:
    """Findings on a DSM that a run would take as it lies, or not at all.

    Args:
        found: Gets them.
        scene: Files that can be opened.
        read: How a run would read; without `align`.
    """
    with (
        found.refusals("grid"),
        open_raster(scene.image, read.limits) as image,
        open_raster(scene.dsm, read.limits) as dsm,
    ):
        difference = mismatch(scene.image, image, dsm, read.use_place)
        if difference is None:
            if image.transform.is_identity == dsm.transform.is_identity:
                found.ok("grid", "image and DSM lie on one grid")
            _examine_datum(found, dsm)
            return
        if found.refused("image", "dsm"):  # else the reader will say so
            found.note("grid", f"{scene.dsm}: {difference}")
    with_align = replace(read, align=DEFAULT_RESAMPLING, image_percentiles=None, areas=())
    try:
        with SceneReader(scene, options=with_align) as reader:
            assert reader.alignment is not None
            found.note("grid", f"with --align: {reader.alignment.sentence()}")
            _examine_cover(found, reader.alignment)
    except SceneError as fault:
        if not found.told(str(fault)):
            found.note("grid", f"--align would be refused, too: {fault}")


def examine_alignment(found: Findings, alignment: Alignment) -> None:
    """Findings on a DSM that a run would warp."""
    found.ok("grid", alignment.sentence())
    _examine_cover(found, alignment)


def _examine_cover(found: Findings, alignment: Alignment) -> None:
    if alignment.overlap < COVERED:
        found.warning(
            "grid",
            f"the DSM covers {alignment.overlap:.1%} of the image, the rest comes out as nodata; "
            "give one of the whole place, or cut the image with --bbox",
        )
    datums = datum_name(alignment.image.crs), datum_name(alignment.dsm.crs)
    if None not in datums and datums[0] != datums[1]:
        found.warning(
            "grid",
            f"the image's datum is {datums[0]}, the DSM's {datums[1]}: without grids for the way "
            "between them places may be metres off; compare both in QGIS",
        )
    if 1 / alignment.finer >= COARSE:
        found.warning(
            "grid",
            f"a DSM pixel is {1 / alignment.finer:.3g} image pixels wide, so edges of roofs are "
            "lost; a finer DSM would show them",
        )


def _examine_datum(found: Findings, dsm: Any) -> None:
    stated = height_system(dsm.crs)
    if stated.datum:
        found.ok("dsm", f"heights are above {stated.datum}")
