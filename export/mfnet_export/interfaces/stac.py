"""A STAC item that describes the model, with the extension for machine learning models (MLM)."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from mfnet_export.interfaces.options import InterfaceOptions
from mfnet_export.interfaces.source import Source
from mfnet_export.tensorrt.options import BATCHES
from mfnet_runtime.backends.base import HALF
from mfnet_runtime.contract import Contract
from mfnet_runtime.files import sha256_from_file
from mfnet_runtime.raster.stac import ALWAYS, classification, plain

EXTENSIONS = [
    "https://stac-extensions.github.io/mlm/v1.5.2/schema.json",
    "https://stac-extensions.github.io/file/v2.1.0/schema.json",
]
SHA256 = "1220"  # prefix of a SHA-256 as a multihash
SEMANTIC_VERSION = re.compile(r"\d+\.\d+\.\d+")  # the only form that the schema takes


def write(source: Source, folder: Path, options: InterfaceOptions) -> None:
    """Write the item, `<stem of the model>.json`, and a copy of the model that it links to."""
    model = folder / source.path.name
    source.copy_to(model)
    item = {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": EXTENSIONS,
        "id": plain(f"mfnet-{source.path.stem}"),
        "geometry": None,
        "properties": _properties(source),
        "assets": _assets(source, model),
        "links": [],
    }
    path = folder / f"{source.path.stem}.json"
    path.write_text(json.dumps(item, indent=2, ensure_ascii=False) + "\n", "utf-8")


def next_steps(source: Source, folder: Path) -> list[str]:
    """Return what is left to do by hand."""
    return [f"add {folder / source.path.stem}.json to a catalogue, with a licence and a place"]


def _properties(source: Source) -> dict[str, Any]:
    contract = source.contract
    task, kind = ["semantic-segmentation"], "float16" if contract.precision in HALF else "float32"

    def shaped(channels: str, count: int) -> dict[str, Any]:
        return {
            "shape": [-1, count, contract.window, contract.window],
            "dim_order": ["batch", channels, "height", "width"],
            "data_type": kind,
        }

    properties: dict[str, Any] = {
        **ALWAYS,
        "description": "MFNet, semantic segmentation of an aerial image with its surface model",
        "bands": _bands(contract),
        "mlm:name": plain(f"mfnet-{source.path.stem}"),
        "mlm:architecture": "MFNet",
        "mlm:tasks": task,
        "mlm:framework": "TensorRT" if source.plan else "ONNX",
        "mlm:batch_size_suggestion": source.plan.profile.best if source.plan else BATCHES.best,
        "mlm:input": [
            {
                "name": "image",
                "bands": list(contract.image.bands),
                "input": shaped("bands", 3),
                "value_scaling": [{"type": "scale", "value": contract.image.full_scale}],
            },
            {"name": "dsm", "bands": ["dsm"], "input": shaped("bands", 1), **_heights(contract)},
        ],
        "mlm:output": [
            {
                "name": "logits",
                "tasks": task,
                "result": shaped("class", len(contract.classes)),
                "classification:classes": classification(contract.classes),
                "post_processing_function": {"format": "python", "expression": "numpy:argmax"},
            }
        ],
        **_origin(contract),
    }
    version = source.plan.version if source.plan else str(contract.provenance.get("onnx"))
    if SEMANTIC_VERSION.fullmatch(version):
        properties["mlm:framework_version"] = version
    if contract.pixel_size is not None:
        properties["gsd"] = contract.pixel_size
    if source.plan is not None or contract.precision in HALF:
        properties |= {"mlm:accelerator": "cuda", "mlm:accelerator_constrained": True}
    return properties


def _bands(contract: Contract) -> list[dict[str, str]]:
    return [{"name": name} for name in (*contract.image.bands, "dsm")]


def _heights(contract: Contract) -> dict[str, Any]:
    """Return the scaling of heights: numbers, or the function that finds them in a scene."""
    rule = contract.dsm
    if rule.name == "range":
        return {"value_scaling": [{"type": "min-max", "minimum": rule.low, "maximum": rule.high}]}
    function = "mfnet_runtime.scene.normalize:dsm_range"
    return {"pre_processing_function": {"format": "python", "expression": function}}


def _origin(contract: Contract) -> dict[str, Any]:
    """Return what the training began from, if the model states it."""
    if "sam" not in contract.provenance:
        return {}
    sam = contract.provenance["sam"]
    return {"mlm:pretrained": sam is not None, "mlm:pretrained_source": sam and f"SAM, {sam}"}


def _assets(source: Source, model: Path) -> dict[str, Any]:
    kind = "tensorrt" if source.plan else "onnx"
    asset: dict[str, Any] = {
        "href": f"./{model.name}",
        "type": f"application/octet-stream; framework={kind}",
        "roles": ["mlm:model", "mlm:weights"],
        "mlm:artifact_type": kind,
        "bands": _bands(source.contract),  # STAC allows those of an item only if an asset has some
        **_file(model),
    }
    if source.plan is not None:
        asset["mlm:compile_method"] = "aot"
    assets = {"model": asset}
    for name, path in (
        ("weights", model.with_name(f"{model.name}.data")),
        ("facts", model.with_name(f"{model.name}.json")),
    ):
        if path.is_file():
            assets[name] = {"href": f"./{path.name}", "roles": [f"mlm:{name}"], **_file(path)}
    return assets


def _file(path: Path) -> dict[str, Any]:
    return {"file:size": path.stat().st_size, "file:checksum": SHA256 + sha256_from_file(path)}
