"""`mfnet-export --for stac`, read by stac-model and PySTAC."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from support import RGBD, plan_facts, write_rgbd_model

from mfnet_export.cli import main
from mfnet_runtime.backends.tensorrt.plan_file import sidecar_of
from mfnet_runtime.contract import Contract, DsmRule
from mfnet_runtime.files import sha256_from_file
from mfnet_runtime.labels import ClassTable
from mfnet_runtime.raster.stac import classification


def item(model: Path, folder: Path) -> dict[str, Any]:
    assert main(["--onnx", str(model), "--for", "stac", "-o", str(folder)]) == 0
    made: dict[str, Any] = json.loads((folder / "stac" / f"{model.stem}.json").read_text())
    return made


def write_plan(path: Path) -> Path:
    path.write_bytes(b"plan")
    facts = plan_facts(Contract(32, RGBD, precision="fp16"), plan_sha256=sha256_from_file(path))
    sidecar_of(path).write_text(facts.to_json())
    return path


SAM = {"sam": "sam_vit_b_01ec64.pth"}
MODELS = [
    pytest.param({}, id="scene_minmax"),
    pytest.param({"dsm": DsmRule("range", 0.0, 60.0), "pixel_size": 0.09}, id="range"),
    pytest.param({"precision": "fp16", "provenance": SAM | {"onnx": "1.23.2"}}, id="fp16"),
    pytest.param({"provenance": {"sam": None}}, id="from_scratch"),
    pytest.param(None, id="plan"),
]


def write_model(folder: Path, changes: dict[str, Any] | None) -> Path:
    if changes is None:
        return write_plan(folder / "m.fp16.plan")
    return write_rgbd_model(folder / "m.onnx", **changes)


@pytest.mark.parametrize("changes", MODELS)
def test_stac_model_and_pystac_accept_the_item(
    tmp_path: Path, changes: dict[str, Any] | None
) -> None:
    schema = pytest.importorskip("stac_model.schema")
    pystac = pytest.importorskip("pystac")
    made = item(write_model(tmp_path, changes), tmp_path)
    known = schema.MLModelProperties.model_validate(made["properties"])
    written = json.loads(known.model_dump_json(by_alias=True, exclude_none=True))
    # Nothing is lost or changed: no field of ours is unknown to the extension.
    for name, value in made["properties"].items():
        if name.startswith("mlm:") and value is not None:
            assert _without_empty(written[name]) == value, name
    read = pystac.Item.from_dict(made)
    assert read.assets["model"].roles == ["mlm:model", "mlm:weights"]


def _without_empty(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            name: _without_empty(part) for name, part in value.items() if part not in ([], None)
        }
    return [_without_empty(part) for part in value] if isinstance(value, list) else value


@pytest.mark.parametrize("changes", MODELS)
def test_the_item_is_valid_stac(tmp_path: Path, changes: dict[str, Any] | None) -> None:
    pytest.importorskip("jsonschema")
    pystac = pytest.importorskip("pystac")
    stac_validator = pytest.importorskip("pystac.validation.stac_validator")
    made = item(write_model(tmp_path, changes), tmp_path)
    # The schemas of STAC's core come with PySTAC; those of extensions are on the network.
    validator = stac_validator.JsonSchemaSTACValidator()
    validator.validate_core(made, pystac.STACObjectType.ITEM, "1.1.0")
    with pytest.raises(pystac.errors.STACValidationError):
        validator.validate_core({**made, "assets": None}, pystac.STACObjectType.ITEM, "1.1.0")


@pytest.mark.parametrize("changes", MODELS)
def test_the_rules_of_the_schema_hold(tmp_path: Path, changes: dict[str, Any] | None) -> None:
    """What the JSON schema of MLM 1.5.2 demands and stac-model does not check."""
    made = item(write_model(tmp_path, changes), tmp_path)
    facts, assets = made["properties"], made["assets"]
    assert "https://stac-extensions.github.io/mlm/v1.5.2/schema.json" in made["stac_extensions"]
    assert re.fullmatch(r"[a-zA-Z][a-zA-Z0-9_.\-\s]+[a-zA-Z0-9]", facts["mlm:name"])
    bands = [band["name"] for band in facts["bands"]]
    assert [*facts["mlm:input"][0]["bands"], *facts["mlm:input"][1]["bands"]] == bands
    for name, asset in assets.items():
        assert ("mlm:artifact_type" in asset) == (name == "model")
        assert asset.get("mlm:compile_method", "aot") == "aot"  # null is refused
    if facts.get("mlm:pretrained") is False:
        assert facts["mlm:pretrained_source"] is None
    for scaling in facts["mlm:input"][1].get("value_scaling", []):
        assert scaling == {"type": "min-max", "minimum": 0.0, "maximum": 60.0}


def test_the_item_describes_the_contract(tmp_path: Path) -> None:
    model = write_rgbd_model(tmp_path / "my model.onnx", pixel_size=0.09)
    made = item(model, tmp_path)
    assert made["id"] == "mfnet-my-model"
    assert made["properties"]["gsd"] == 0.09
    asset = made["assets"]["model"]
    copy = (tmp_path / "stac" / asset["href"]).read_bytes()
    assert copy == model.read_bytes()
    assert asset["file:checksum"] == "1220" + hashlib.sha256(copy).hexdigest()
    (output,) = made["properties"]["mlm:output"]
    assert output["result"]["shape"] == [-1, 4, 32, 32]
    assert output["classification:classes"][0] == {
        "value": 0,
        "name": "red",
        "description": "red",
        "color_hint": "DC2828",
    }


def test_class_names_become_those_of_the_classification_extension(tmp_path: Path) -> None:
    table = ClassTable(("low vegetation", "été/v1.0"), ((0, 0, 0), (1, 2, 3)))
    for row, name in zip(classification(table), table.names, strict=True):
        assert re.fullmatch("[0-9A-Za-z_-]+", row["name"])
        assert row["description"] == name
