from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from networks import random_network

import mfnet_export.graph.export
from mfnet_export.files import ExportError
from mfnet_export.graph.export import onnx_from_network
from mfnet_export.graph.passes import SHAPE_OPERATORS, require_static
from mfnet_export.rewrites.steps import STEPS
from mfnet_runtime.backends import backend_from_file
from mfnet_runtime.contract import METADATA_KEY, Contract
from mfnet_runtime.errors import ResourceError
from mfnet_runtime.files import sha256_from_file
from mfnet_runtime.labels import ClassTable

if TYPE_CHECKING:
    from export.conftest import Made

WINDOW = 64
CONTRACT = Contract(WINDOW, ClassTable.numbered(3))


def test_format(made: Made) -> None:
    model = onnx.load(made.onnx, load_external_data=False)
    onnx.checker.check_model(model, full_check=True)
    found = {
        value.name: [size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    assert found == {
        "image": ["N", 3, WINDOW, WINDOW],
        "dsm": ["N", 1, WINDOW, WINDOW],
        "logits": ["N", 3, WINDOW, WINDOW],
    }
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 17)]
    assert model.ir_version == 8
    assert not model.functions
    assert not any(tensor.external_data for tensor in model.graph.initializer)
    assert sorted(path.name for path in made.onnx.parent.iterdir()) == ["best.onnx", "best.pt"]


def test_contract_and_provenance_are_inside(made: Made) -> None:
    (prop,) = onnx.load(made.onnx).metadata_props
    assert prop.key == METADATA_KEY
    contract = Contract.from_json(prop.value)
    assert (contract.window, contract.precision) == (WINDOW, "fp32")
    assert contract.classes == made.contract.classes
    assert contract.provenance == {
        "dataset": "town",
        "checkpoint_sha256": sha256_from_file(made.checkpoint),
        "rewrites": [step.name for step in STEPS if step.name != "zero-tables"],
        "opset": 17,
        "validation": {"mean_iou": 0.5},
        **{name: version(name) for name in ("mfnet", "torch", "onnx", "onnxscript")},
    }


def test_nothing_private_and_no_unmerged_weight_is_inside(made: Made) -> None:
    content = made.onnx.read_bytes()
    for part in (b"/work", b"/tmp", str(Path.home()).encode(), b"site-packages", b".py", b"pkg."):
        assert part not in content, part
    names = {tensor.name for tensor in onnx.load(made.onnx).graph.initializer}
    assert not [name for name in names if "lora_A" in name or "attn.qkv.weight" in name]


def test_only_the_batch_is_dynamic(made: Made) -> None:
    graph = onnx.shape_inference.infer_shapes(onnx.load(made.onnx), strict_mode=True).graph
    assert not SHAPE_OPERATORS & {node.op_type for node in graph.node}
    require_static(ir.load(made.onnx), "N")
    for node in graph.node:
        if node.op_type == "Resize":
            assert len(node.input) == 3  # scales, not sizes


@pytest.fixture
def without_torch_export(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mfnet_export.graph.export, "_trace", lambda *_: ir.load(made.onnx))


@pytest.mark.usefixtures("without_torch_export", "above_2_gib")
def test_large_weights_go_beside(made: Made, tmp_path: Path) -> None:
    path = tmp_path / "large.onnx"
    onnx_from_network(made.network, CONTRACT, path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["large.onnx", "large.onnx.data"]
    assert path.stat().st_size < made.onnx.stat().st_size / 2
    rng = np.random.default_rng(0)
    sizes = {"image": 3, "dsm": 1}
    windows = {n: rng.random((1, c, WINDOW, WINDOW), np.float32) for n, c in sizes.items()}
    with backend_from_file(path, threads=1) as large, backend_from_file(made.onnx) as whole:
        found, expected = (each.infer(windows)["logits"] for each in (large, whole))
        np.testing.assert_allclose(found, expected, 1e-4)


@pytest.mark.usefixtures("without_torch_export")
def test_a_full_disk_leaves_the_old_file(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    path = tmp_path / "best.onnx"
    path.write_text("old")
    monkeypatch.setattr(ir, "save", full)
    with pytest.raises(ResourceError, match=r"best\.onnx cannot be written \(No space left"):
        onnx_from_network(made.network, CONTRACT, path)
    assert [file.name for file in tmp_path.iterdir()] == ["best.onnx"]
    assert path.read_text() == "old"


def test_networks_that_cannot_be_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise torch.onnx.OnnxExporterError("no lowering for aten.magic\nand much more")

    network, path = random_network("none"), tmp_path / "best.onnx"
    with pytest.raises(ValueError, match="another network"):
        onnx_from_network(network, Contract(128, CONTRACT.classes), path)
    with pytest.raises(ValueError, match="eval mode"):
        onnx_from_network(network.double(), CONTRACT, path)
    with pytest.raises(ValueError, match="eval mode"):
        onnx_from_network(network.float().train(), CONTRACT, path)
    monkeypatch.setattr(torch.onnx, "export", fail)
    with pytest.raises(ExportError, match=r"cannot export this network \(no lowering .*magic\)"):
        onnx_from_network(network.eval(), CONTRACT, path)
    assert list(tmp_path.iterdir()) == []
