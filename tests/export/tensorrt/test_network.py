"""Facts of a graph before a build."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import onnx_ir as ir
from plans import write_attention

from mfnet_export.precision.fp16_cast import LAYOUT, cast_to_fp16
from mfnet_export.precision.fp16_ranges import residual_sums
from mfnet_export.tensorrt.network import graph_from_onnx

if TYPE_CHECKING:
    from export.conftest import Made


def test_attentions_of_a_network(made: Made) -> None:
    """Count one per block and stream; the heads of the decoder are too small to be fused."""
    config = made.network.config
    assert config.embed_dim // config.heads >= 16
    graph = graph_from_onnx(made.onnx)
    assert graph.attentions == 2 * config.depth
    softmaxes = sum(operator == "Softmax" for _, operator in graph.nodes)
    assert softmaxes > graph.attentions


def test_nodes_and_fp32_nodes(tmp_path: Path) -> None:
    graph = graph_from_onnx(write_attention(tmp_path / "a.onnx"))
    assert graph.nodes[1:4] == (("scores", "MatMul"), ("softmax", "Softmax"), ("mix", "MatMul"))
    assert not graph.fp32_nodes
    assert graph.attentions == 1
    raised = graph_from_onnx(write_attention(tmp_path / "b.onnx", island=True))
    assert raised.fp32_nodes == {"weigh"}


def test_fp32_nodes_of_a_network_in_fp16(made: Made, tmp_path: Path) -> None:
    """Expect the kept residual sums, their norms and nodes that only move their values."""
    model, path = ir.load(made.onnx), tmp_path / "made.fp16.onnx"
    sums = residual_sums(model)
    cast_to_fp16(model, sums)
    ir.save(model, path)
    graph, whole = graph_from_onnx(path), graph_from_onnx(made.onnx)
    assert graph.attentions == whole.attentions
    kinds = dict(graph.nodes)
    kept = Counter(kinds[name] for name in graph.fp32_nodes)
    assert kept["Add"] == len(sums)
    assert kept["LayerNormalization"] >= 4 * made.network.config.depth
    assert not set(kept) - {"Add", "LayerNormalization", *LAYOUT}
