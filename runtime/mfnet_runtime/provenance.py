"""Tags of an output that say what made it, from what. No local paths."""

from __future__ import annotations

from pathlib import Path

from mfnet_runtime.backends.base import Backend
from mfnet_runtime.files import sha256_from_file
from mfnet_runtime.pipeline import SegmentOptions, preprocessed_on
from mfnet_runtime.read_options import ReadOptions
from mfnet_runtime.version import installed_version


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
        "MFNET_BACKEND": f"{backend.name}: {backend.device}",
        "MFNET_PRECISION": backend.precision,
        "MFNET_PREPROCESS": preprocessed_on(backend, options),
        "MFNET_STRIDE": str(options.stride or contract.window // 2),
        "MFNET_BLEND": options.blend,
    }
    asked = {
        "MFNET_BANDS": ",".join(map(str, read.bands or ())),
        "MFNET_ALIGN": read.align or "",
        # an area is called by its file
        "MFNET_AREAS": ", ".join(Path(area.name).name for area in read.areas),
    }
    return {**tags, **{key: value for key, value in asked.items() if value}}


def model_tags(path: Path) -> dict[str, str]:
    """Which model file it was; reads all of it."""
    return {"MFNET_MODEL": path.name, "MFNET_MODEL_SHA256": sha256_from_file(path)}
