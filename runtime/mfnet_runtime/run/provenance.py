"""Provenance: tags of output files, and the settings that a resumed run must share."""

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
from mfnet_runtime.run.options import VectorOptions
from mfnet_runtime.scene.aoi import Area
from mfnet_runtime.scene.discovery import Scene
from mfnet_runtime.scene.options import ReadOptions
from mfnet_runtime.tiling.pipeline import SegmentOptions, processor
from mfnet_runtime.version import UNKNOWN, installed_version


def provenance_tags(backend: Backend, options: SegmentOptions, read: ReadOptions) -> dict[str, str]:
    """Return the tags that do not depend on the scene; no local paths."""
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
    optional = {
        "MFNET_BANDS": ",".join(map(str, read.bands or ())),
        "MFNET_RESAMPLED_TO": f"{read.resample_to:g} m" if read.resample_to else "",
        "MFNET_ALIGN": read.dsm_resampling or "",
        "MFNET_AREAS": ", ".join(Path(area.name).name for area in read.areas),
    }
    return {**tags, **{key: value for key, value in optional.items() if value}}


def run_settings(
    backend: Backend,
    options: SegmentOptions,
    read: ReadOptions,
    vectors: VectorOptions,
    tags: Mapping[str, str],
    scenes: Sequence[Scene],
) -> dict[str, Any]:
    """Return everything but the scenes' files that outputs depend on, as plain JSON types.

    Batch, block size, memory and threads change no byte and are left out.

    Args:
        backend: Entered.
        options: How to segment.
        read: How to read.
        vectors: The polygons to make.
        tags: Name and digest of the model.
        scenes: All scenes of the run.
    """
    contract = backend.contract
    segment, reading = asdict(options), asdict(replace(read, aoi=None, bbox=None))
    reading |= {"align": read.dsm_resampling, "areas": [area_digest(area) for area in read.areas]}
    for free in ("resampling", "aoi", "bbox", "allow_driver", "max_pixels", "allow_network"):
        del reading[free]
    for stated in ("band_names", "pixel_size"):  # for warnings alone
        del reading[stated]
    for free in ("batch", "block", "max_memory", "quality"):
        del segment[free]
    found = {
        **tags,
        "version": installed_version("mfnet"),
        "backend": backend.name,
        "backend_version": engine_version(backend),
        "device": backend.device,
        "precision": backend.precision,
        "contract": contract.to_dict(),
        **segment,
        "stride": options.stride_for(contract.window),
        "blend": options.sum,
        "preprocess": processor(backend, options),
        **reading,
        "dsm_band": scenes[0].dsm_band if scenes else None,  # one option for all scenes
        **asdict(vectors),
    }
    plain: dict[str, Any] = json.loads(json.dumps(found, default=str))
    return plain


def engine_version(backend: Backend) -> str:
    """Return the version of the library that runs the model."""
    return str(getattr(sys.modules.get(backend.name), "__version__", UNKNOWN))


def area_digest(area: Area) -> str:
    """Return the SHA-256 of an area's polygons and CRS."""
    digest = sha256(area.crs.to_wkt().encode() if area.crs else b"")
    for polygon in area.polygons:
        for ring in polygon:
            digest.update(ring.tobytes() + b"ring")
        digest.update(b"polygon")
    return digest.hexdigest()


def model_tags(path: Path) -> dict[str, str]:
    """Return name and SHA-256 of a model file."""
    return {"MFNET_MODEL": path.name, "MFNET_MODEL_SHA256": sha256_from_file(path)}
