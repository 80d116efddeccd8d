"""Segment an upload: files in, one answer out."""

from __future__ import annotations

import base64
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO, Literal

from mfnet_runtime.errors import MFNetError, ResourceError
from mfnet_runtime.run.model import Model
from mfnet_runtime.run.options import VectorOptions
from mfnet_runtime.scene.discovery import Scene
from mfnet_runtime.scene.options import ReadOptions
from mfnet_runtime.scene.reader import SceneReader
from mfnet_runtime.serve.previews import previews
from mfnet_runtime.tiling.options import SegmentOptions
from mfnet_runtime.tiling.pipeline import Tick

Format = Literal["tif", "geojson", "json"]
MEDIA_TYPES: dict[Format, str] = {
    "tif": "image/tiff; application=geotiff; profile=cloud-optimized",
    "geojson": "application/geo+json",
    "json": "application/json",
}
PATHS = ("output", "confidence", "probabilities", "vectors", "scene", "status", "resumed")


@dataclass(frozen=True)
class Upload:
    """A scene as it was uploaded, and what to make of it."""

    image: BinaryIO
    dsm: BinaryIO | None  # None: the heights are a band of the image
    dsm_band: int | None
    read: ReadOptions
    format: Format
    vectors: VectorOptions


def segment_upload(model: Model, upload: Upload, options: SegmentOptions, tick: Tick) -> bytes:
    """Return the class map of an upload, or the polygons or JSON made of it.

    Everything is written to a temporary folder under names of its own.

    Args:
        model: The network.
        upload: The scene.
        options: How to segment.
        tick: Called with the number of windows just done; may raise.

    Raises:
        UsageError, SceneError, ResourceError: As `Model.segment`; the upload is called image.tif
            and dsm.tif in the message.
    """
    tick(0)
    with TemporaryDirectory(prefix="mfnet-serve-") as name:
        folder = Path(name)
        image, dsm = folder / "image.tif", folder / "dsm.tif"
        try:
            for path, file in ((image, upload.image), (dsm, upload.dsm)):
                if file is not None:
                    _save(file, path)
            heights = dsm if upload.dsm is not None else None
            target = folder / "map" / "classes.tif"
            row = model.segment(
                image,
                heights,
                out=target,
                dsm_band=upload.dsm_band,
                options=options,
                read=upload.read,
                vectors=upload.vectors,
                tick=tick,
            )
            if upload.format == "tif":
                return target.read_bytes()
            if upload.format == "geojson":
                return target.with_suffix(".geojson").read_bytes()
            scene = Scene("upload", image, heights or image, dsm_band=upload.dsm_band)
            with SceneReader(scene, model.contract.image.full_scale, upload.read) as reader:
                shown = previews(reader, target, model.contract.classes)
            return _summary(row, target, model, shown, name)
        except MFNetError as fault:
            raise type(fault)(_without_folder(str(fault), name)) from fault


def _save(file: BinaryIO, path: Path) -> None:
    try:
        with path.open("xb") as copy:
            shutil.copyfileobj(file, copy, 1 << 20)
    except OSError as fault:
        raise ResourceError(
            f"the service cannot store the upload ({fault.strerror}); try again later"
        ) from fault


def _summary(
    row: dict[str, Any], target: Path, model: Model, shown: dict[str, str], folder: str
) -> bytes:
    """Return the row of `mfnet-run`, without paths, with legend, previews and the map."""
    facts = {key: value for key, value in row.items() if key not in PATHS}
    facts["warnings"] = [_without_folder(warning, folder) for warning in row["warnings"]]
    legend = model.contract.classes.to_json()
    tif = base64.b64encode(target.read_bytes()).decode()
    return json.dumps({**facts, "classes": legend, "previews": shown, "tif": tif}).encode()


def _without_folder(text: str, folder: str) -> str:
    return text.replace(folder + os.sep, "")
