"""Finishing a scene: its blocks become the output files, which appear together."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rasterio.errors import RasterioError

from mfnet_runtime.errors import ResourceError
from mfnet_runtime.files import FileDigest, replace_files
from mfnet_runtime.labels import ClassTable
from mfnet_runtime.raster.geotiff import Block, Metadata, write_cog
from mfnet_runtime.raster.pixel_area import ClassAreas, ground_area
from mfnet_runtime.raster.vectors import vectors_from_classmap
from mfnet_runtime.run.options import VectorOptions
from mfnet_runtime.run.outputs import CLASSES_TAG, OutputPaths
from mfnet_runtime.run.plan import ScenePlan
from mfnet_runtime.tiling.pipeline import SceneReport


def finish_scene(
    plan: ScenePlan,
    blocks: Sequence[Block],
    outputs: OutputPaths,
    classes: ClassTable,
    vectors: VectorOptions,
    tags: Mapping[str, str],
) -> tuple[dict[str, FileDigest], ClassAreas]:
    """Write all output files of a scene and verify them; older ones are replaced.

    Args:
        plan: Of the scene.
        blocks: They cover it.
        outputs: Where the files go.
        classes: Names and colours.
        vectors: The polygons to make.
        tags: Provenance of all scenes.

    Returns:
        The digest of every file by its name, and the area of each class.

    Raises:
        ResourceError: the disk is full, the folder cannot be written, a block is damaged, or a file
            reads back differently.
    """
    tags = {CLASSES_TAG: json.dumps(classes.to_json()), **tags, **_scene_tags(plan)}
    metadata = Metadata(plan.shape, plan.place, tags)
    areas = ClassAreas(ground_area(plan.place, plan.shape[0]), len(classes))
    try:
        with TemporaryDirectory(prefix=".outputs-", dir=plan.folder) as name:
            folder, first = Path(name), 1
            files: dict[Path, Path] = {}  # final path: temporary file
            for path, layer in outputs.layers(classes).items():
                files[path] = folder / f"{first}.tif"
                seen = areas.add if path == outputs.classes else None
                write_cog(files[path], layer, metadata, blocks, first, seen)
                first += len(layer.bands)
            if outputs.vectors:
                files |= {path: folder / f"vectors{path.suffix}" for path in outputs.vector_files}
                vectors_from_classmap(
                    files[outputs.classes],
                    files[outputs.vectors],
                    classes,
                    math.prod(plan.shape),
                    vectors.smallest,
                    vectors.min_area or 0,
                    vectors.simplify or 0,
                )
            for path, text in outputs.texts(classes, plan.place, plan.shape).items():
                files[path] = folder / path.name
                files[path].write_text(text, encoding="utf-8")
            digests = {path.name: FileDigest.of(file, whole=True) for path, file in files.items()}
            # the class map last: if it is new, all files are
            in_order = sorted(files.items(), key=lambda item: item[0] == outputs.classes)
            replace_files((file, path) for path, file in in_order)
    except (RasterioError, OSError) as fault:
        reason = " ".join(str(fault.__cause__ or fault).split())[:200]
        raise ResourceError(
            f"{outputs.classes}: cannot be written ({reason}); check free space and write "
            "permission, and continue with --resume"
        ) from fault
    return digests, areas


def _scene_tags(plan: ScenePlan) -> dict[str, str]:
    span = plan.span
    tags = {"MFNET_DSM_LOW": str(span.low), "MFNET_DSM_HIGH": str(span.high)}
    if plan.read.image_range:
        tags["MFNET_IMAGE_RANGE"] = " ".join(map(str, plan.read.image_range))
    return tags


def row_of(
    plan: ScenePlan, classes: ClassTable, areas: ClassAreas, report: SceneReport
) -> dict[str, Any]:
    """Return the row of a finished scene in the JSON summary, without paths.

    Args:
        plan: Of the scene.
        classes: Their names.
        areas: Of its finished class map.
        report: Of the blocks done by this process.
    """
    pixels, m2 = areas.pixels, areas.m2
    shares = m2 or [float(count) for count in pixels]
    whole = sum(shares) or 1.0
    names = classes.names
    return {
        "scene": plan.scene.name,
        "status": "done",
        "windows": report.windows,
        "blocks": report.blocks,
        "skipped_windows": report.skipped,
        "batch": report.batch,
        "dsm_low": report.dsm.low,
        "dsm_high": report.dsm.high,
        "dsm_constant": report.dsm.constant,
        **plan.read.to_json(),
        "warnings": list(plan.warnings),
        "class_pixels": dict(zip(names, pixels, strict=True)),
        "class_percent": {
            name: round(100 * share / whole, 4) for name, share in zip(names, shares, strict=True)
        },
        "class_area_m2": dict(zip(names, m2, strict=True)) if m2 else None,
        "area_from": areas.how,
        "nodata_pixels": math.prod(plan.shape) - sum(pixels),
        "valid_pixels": sum(pixels),
        "uploaded": [],
        "backend_s": round(report.backend_s, 4),
        "total_s": round(report.total_s, 4),
    }
