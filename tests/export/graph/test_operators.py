"""What the exporter writes, the runtime allows: its list of operators holds them all."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import onnx
import pytest
import torch
from networks import random_network

from mfnet.tuning import tuning_names
from mfnet_export.graph.export import onnx_from_network
from mfnet_export.rewrites.steps import merged
from mfnet_runtime.backends.onnx_header import header_from_onnx
from mfnet_runtime.backends.onnx_operators import OPERATORS
from mfnet_runtime.contract import Contract
from mfnet_runtime.labels import ClassTable

if TYPE_CHECKING:
    from export.conftest import Made

INT8_ONLY = {"QuantizeLinear", "DequantizeLinear"}  # test_int8 runs such files


def operators_in(path: Path) -> set[str]:
    return {node.op_type for node in onnx.load(path, load_external_data=False).graph.node}


def test_an_export_is_allowed(made: Made) -> None:
    assert operators_in(made.onnx) | INT8_ONLY <= OPERATORS
    assert header_from_onnx(made.onnx).opset == 17


@pytest.mark.slow
@pytest.mark.parametrize("tuning", tuning_names())
@pytest.mark.parametrize("tables", ["real", "zero"])
def test_every_export_is_allowed(tuning: str, tables: str, tmp_path: Path) -> None:
    """Windows of 256 px, the smallest of which padding is cut off."""
    network = random_network(tuning, window=256)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if ".rel_pos_" in name and tables == "zero":
                parameter.zero_()
    path = tmp_path / "a.onnx"
    onnx_from_network(merged(network).network, Contract(256, ClassTable.numbered(3)), path)
    assert operators_in(path) <= OPERATORS
    assert header_from_onnx(path).opset == 17
