"""Rules for an image and its DSM together, and all warnings about a scene before it is run."""

from __future__ import annotations

from typing import Any

from mfnet_runtime.checks import dsm, image
from mfnet_runtime.checks.findings import Finding, Findings, Said
from mfnet_runtime.checks.statistics import QUICK, dsm_statistics, image_statistics
from mfnet_runtime.contract import Contract
from mfnet_runtime.raster.crs import differing_datums
from mfnet_runtime.scene.discovery import Scene
from mfnet_runtime.scene.dsm_alignment import Alignment
from mfnet_runtime.scene.normalize import DsmRange
from mfnet_runtime.scene.reader import SceneReader

COVERED = 0.9  # share of the image that a DSM should cover
COARSE = 4.0  # width of a DSM pixel in image pixels from which edges of roofs are lost


def warnings_for(reader: SceneReader, contract: Contract, span: DsmRange) -> list[Finding]:
    """Return all warnings about an open scene, from a small sample of its pixels.

    Args:
        reader: An open scene.
        contract: Of the model.
        span: Heights that become the network's 0 and 1.

    Raises:
        SceneError: damaged data, or pixel values outside of the model's range.
    """
    found, bands, heights = Findings(), reader.image, reader.dsm
    statistics = image_statistics(bands, reader.options, QUICK)
    image_facts = image.ImageFacts(bands, statistics, contract, reader.options)
    for image_rule in image.RULES:
        found.add("image", image_rule(image_facts))
    dsm_facts = dsm.DsmFacts(heights, dsm_statistics(heights, QUICK), span)
    for dsm_rule in dsm.RULES:
        found.add("dsm", dsm_rule(dsm_facts))
    found.add("grid", place(reader.scene, bands.dataset, heights.dataset))
    if reader.alignment is not None:
        found.add("grid", alignment(reader.alignment))
    return [finding for finding in found.all if finding.level == "warning"]


def place(scene: Scene, image: Any, dsm: Any) -> Said:
    """Warn if only one of two open rasters has a geotransform."""
    path, other = scene.image, scene.dsm
    if image.transform.is_identity == dsm.transform.is_identity:
        return
    if dsm.transform.is_identity:
        path, other = other, path
    yield (
        "warning",
        f"{path}: has no geotransform, unlike {other}; they are matched by size alone",
    )


def alignment(found: Alignment) -> Said:
    """Warn of a DSM that covers little of the image, is coarse, or refers to another datum."""
    if found.overlap < COVERED:
        yield (
            "warning",
            f"the DSM covers {found.overlap:.1%} of the image, and the rest becomes nodata; use a "
            "DSM of the whole area, or limit the run with --bbox",
        )
    if datums := differing_datums(found.image.crs, found.dsm.crs):
        yield (
            "warning",
            f"the image's datum is {datums[0]}, the DSM's is {datums[1]}; without transformation "
            "grids they may be metres apart, so compare both in QGIS",
        )
    if 1 / found.finer >= COARSE:
        yield (
            "warning",
            f"a DSM pixel is {1 / found.finer:.3g} image pixels wide, which blurs the edges of "
            "roofs; use a finer DSM if there is one",
        )
