"""Tags of an output that say what made it, from what. No local paths."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from mfnet_runtime.backends.base import Backend
from mfnet_runtime.files import sha256_from_file
from mfnet_runtime.raster.polygons import VectorOptions
from mfnet_runtime.scene.aoi import Area
from mfnet_runtime.scene.discovery import Scene
from mfnet_runtime.scene.options import ReadOptions
from mfnet_runtime.tiling.pipeline import SegmentOptions, processor
from mfnet_runtime.version import UNKNOWN, installed_version


def provenance_tags(backend: Backend, options: SegmentOptions, read: ReadOptions) -> dict[str, str]:
    """What is known before a scene is looked at.

    Args:
        backend: Entered.
        options: How scenes are walked over.
        read: How they are read.
    """
    contract = backend.contract
    tags = {
        "MFNET_VERSION": installed_version("mfnet"),
        "MFNET_CONTRACT": contract.to_json(),
        "MFNET_BACKEND": f"{backend.name} {engine_version(backend)}: {backend.device}",
        "MFNET_PRECISION": backend.precision,
        "MFNET_PREPROCESS": processor(backend, options),
        "MFNET_STRIDE": str(options.stride_for(contract.window)),
        "MFNET_BLEND": options.sum,
    }
    asked = {
        "MFNET_BANDS": ",".join(map(str, read.bands or ())),
        "MFNET_ALIGN": read.align or "",
        # an area is called by its file
        "MFNET_AREAS": ", ".join(Path(area.name).name for area in read.areas),
    }
    return {**tags, **{key: value for key, value in asked.items() if value}}


def run_settings(
    backend: Backend,
    options: SegmentOptions,
    read: ReadOptions,
    vectors: VectorOptions | None,
    tags: Mapping[str, str],
    scenes: Sequence[Scene],
) -> dict[str, Any]:
    """All that outputs depend on besides the scenes' own files, as plain JSON types.

    Batch, blocks and threads are not among it: the bytes are the same. Arguments as above, and
        vectors: What polygons are made.
        tags: Which model it is.
        scenes: All of the run.
    """
    contract = backend.contract
    walked, reading = asdict(options), asdict(replace(read, areas=()))
    del reading["limits"]
    for free in ("batch", "block", "max_memory"):
        del walked[free]
    found = {
        **tags,
        "version": installed_version("mfnet"),
        "backend": backend.name,
        "backend_version": engine_version(backend),
        "device": backend.device,
        "precision": backend.precision,
        "contract": contract.to_dict(),
        **walked,
        "stride": options.stride_for(contract.window),
        "preprocess": processor(backend, options),
        **reading,
        "dsm_band": scenes[0].dsm_band if scenes else None,  # of all, as scenes are told
        "areas": [area_digest(area) for area in read.areas],
        "vectors": asdict(vectors) if vectors else None,
    }
    plain: dict[str, Any] = json.loads(json.dumps(found, default=str))
    return plain


def engine_version(backend: Backend) -> str:
    """Of what runs the model."""
    return str(getattr(sys.modules.get(backend.name), "__version__", UNKNOWN))


def area_digest(area: Area) -> str:
    """SHA-256 of polygons and CRS."""
    digest = sha256(area.crs.to_wkt().encode() if area.crs else b"")
    for polygon in area.polygons:
        for ring in polygon:
            digest.update(ring.tobytes() + b"ring")
        digest.update(b"polygon")
    return digest.hexdigest()


def model_tags(path: Path) -> dict[str, str]:
    """Which model file it was; reads all of it."""
    return {"MFNET_MODEL": path.name, "MFNET_MODEL_SHA256": sha256_from_file(path)}
