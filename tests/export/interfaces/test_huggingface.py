"""`mfnet-export --for huggingface`, read by huggingface_hub and safetensors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from plans import write_attention
from support import plan_facts, write_rgbd_model

from mfnet_export.cli import main
from mfnet_runtime.backends.tensorrt.plan_file import sidecar_of
from mfnet_runtime.contract import METADATA_KEY, Contract
from mfnet_runtime.files import sha256_from_file
from mfnet_runtime.labels import ClassTable

if TYPE_CHECKING:
    from export.conftest import Made

safetensors = pytest.importorskip("safetensors")
ODD = ClassTable(("a: b", "c|d", 'e"f', "# ünï"), ((0, 0, 0), (1, 1, 1), (2, 2, 2), (3, 3, 3)))


def write(model: Path, folder: Path) -> Path:
    assert main(["--onnx", str(model), "--for", "huggingface", "-o", str(folder)]) == 0
    return folder / "huggingface"


def test_weights_are_those_of_the_graph(made: Made, tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    folder = write(made.onnx, tmp_path)
    weights = load_file(folder / "model.safetensors")
    graph = onnx.load(folder / "best.onnx").graph
    assert weights.keys() == {tensor.name for tensor in graph.initializer}
    for tensor in graph.initializer:
        assert np.array_equal(weights[tensor.name], onnx.numpy_helper.to_array(tensor))
    with safetensors.safe_open(folder / "model.safetensors", "np") as file:
        stated = Contract.from_json(file.metadata()[METADATA_KEY])
    assert stated == Contract.from_dict(json.loads((folder / "contract.json").read_text()))
    assert stated.to_dict() == made.report["contract"]


def test_weights_beside_the_file_are_read(tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    folder = write(write_attention(tmp_path / "m.onnx", "fp32", beside=True), tmp_path)
    weights = load_file(folder / "model.safetensors")
    assert (weights["scale"] == 0.5).all()
    assert (folder / "m.onnx.data").is_file()


def test_the_card_states_facts_and_scores(made: Made, tmp_path: Path) -> None:
    hub = pytest.importorskip("huggingface_hub")
    card = hub.ModelCard.load(write(made.onnx, tmp_path) / "README.md")
    facts = card.data.to_dict()
    assert facts["pipeline_tag"] == "image-segmentation"
    assert facts["library_name"] == "mfnet"
    assert facts["license"] == "unknown"
    (score,) = card.data.eval_results
    assert (score.metric_type, score.metric_value) == ("mean_iou", 0.5)  # of the checkpoint
    assert (score.dataset_name, score.task_type) == ("town", "image-segmentation")
    assert "* mIoU: 0.5000" in card.text
    assert "mfnet-run best.onnx" in card.text


def test_names_with_special_characters_do_not_break_the_card(tmp_path: Path) -> None:
    hub = pytest.importorskip("huggingface_hub")
    model = write_rgbd_model(tmp_path / "m.onnx", provenance={"dataset": 'x: "y" #z'})
    loaded = onnx.load(model)
    contract = Contract.from_json(loaded.metadata_props[0].value)
    odd = Contract(
        32,
        ODD,
        provenance={**contract.provenance, "validation": {"mean_iou": 0.25, "oa": 0.5}},
    )
    onnx.helper.set_model_props(loaded, {METADATA_KEY: odd.to_json()})
    onnx.save(loaded, model)
    card = hub.ModelCard.load(write(model, tmp_path) / "README.md")
    assert {each.dataset_name for each in card.data.eval_results} == {'x: "y" #z'}
    assert "| 1 | c\\|d |" in card.text


def test_a_plan_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = tmp_path / "m.plan"
    plan.write_bytes(b"plan")
    facts = plan_facts(Contract(32, ODD), plan_sha256=sha256_from_file(plan))
    sidecar_of(plan).write_text(facts.to_json())
    assert main(["--onnx", str(plan), "--for", "huggingface", "-o", str(tmp_path / "out")]) == 2
    assert "a plan reveals neither graph nor weights" in capsys.readouterr().err
