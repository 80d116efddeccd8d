"""What is read of a graph before a build, and of an engine after it."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx_ir as ir
import pytest
from plans import write_attention

from mfnet_export.precision.fp16_cast import LAYOUT, halve
from mfnet_export.precision.fp16_ranges import residual_sums
from mfnet_export.tensorrt.engine import EngineFacts, facts_from_text
from mfnet_export.tensorrt.graph import graph_from_onnx

if TYPE_CHECKING:
    from export.conftest import Made


def test_attentions_of_a_network(made: Made) -> None:
    """One a block and stream; the decoder's have heads too small for a fused kernel."""
    config = made.network.config
    assert config.embed_dim // config.heads >= 16
    graph = graph_from_onnx(made.onnx)
    assert graph.attentions == 2 * config.depth
    softmaxes = sum(operator == "Softmax" for _, operator in graph.nodes)
    assert softmaxes > graph.attentions


def test_nodes_and_islands(tmp_path: Path) -> None:
    graph = graph_from_onnx(write_attention(tmp_path / "a.onnx"))
    assert graph.nodes[1:4] == (("scores", "MatMul"), ("softmax", "Softmax"), ("mix", "MatMul"))
    assert not graph.islands
    assert graph.attentions == 1
    raised = graph_from_onnx(write_attention(tmp_path / "b.onnx", island=True))
    assert raised.islands == {"weigh"}


def test_islands_of_a_network_in_fp16(made: Made, tmp_path: Path) -> None:
    """Residual sums that were kept in FP32, their norms and what only moves their numbers."""
    model, path = ir.load(made.onnx), tmp_path / "made.fp16.onnx"
    sums = residual_sums(model)
    halve(model, sums)
    ir.save(model, path)
    graph, whole = graph_from_onnx(path), graph_from_onnx(made.onnx)
    assert graph.attentions == whole.attentions
    kinds = dict(graph.nodes)
    kept = Counter(kinds[name] for name in graph.islands)
    assert kept["Add"] == len(sums)
    assert kept["LayerNormalization"] >= 4 * made.network.config.depth
    assert not set(kept) - {"Add", "LayerNormalization", *LAYOUT}


def layer(name: str, kind: str = "kgen", tactic: str = "", metadata: str = "") -> dict[str, Any]:
    return {"Name": name, "LayerType": kind, "TacticName": tactic, "Metadata": metadata}


# As TensorRT names them; the first two are of reports on 10.x, the others NVIDIA's own tools know.
FUSED = [
    layer("_gemm_mha_v2_myl0_17", tactic="_gemm_mha_v2_0x957a2fe283f77dcf"),
    layer("__mye6916", tactic="fmha_v2_flash_attention_fp16_S_128_sm90"),
    layer("kgen_mha_0"),
    layer("fused_multihead_attention_12"),
]
OTHERS = [
    layer("node_MatMul_3", "gemm", "sm80_xmma_gemm_f16f16_tilesize32x32x64", "/mha/attn/MatMul"),
    layer("node_alphamhax"),
    layer("__myl_Soft_myl0_4"),
]


@pytest.mark.parametrize("entry", FUSED)
def test_fused_attention_is_known_by_name(entry: dict[str, Any]) -> None:
    text = json.dumps({"Layers": [entry, *OTHERS], "Bindings": ["image", "dsm", "logits"]})
    assert facts_from_text(text) == EngineFacts(4, 1)
    names = json.dumps({"Layers": [entry["Name"], *(other["Name"] for other in OTHERS)]})
    expected = 0 if entry["TacticName"].startswith("fmha") else 1  # known by its tactic alone
    assert facts_from_text(names) == EngineFacts(4, expected)


def test_layers_that_wait_are_no_layers() -> None:
    waiting = [layer("__mye6918", "signal"), layer("__mye6920", "wait"), layer("s", "shape_call")]
    assert facts_from_text(json.dumps({"Layers": [*waiting, *OTHERS]})) == EngineFacts(3, 0)


def test_layers_that_hide_others_tell_nothing_of_attention() -> None:
    hidden = layer("{ForeignNode[node_conv2d...node_Reshape_9]}", "Myelin")
    assert facts_from_text(json.dumps({"Layers": [hidden, *OTHERS]})) == EngineFacts(4, None)


@pytest.mark.parametrize("text", ["", "null", "{}", '{"Layers": null}', "Layer(...)"])
def test_engines_that_list_nothing(text: str) -> None:
    assert facts_from_text(text) == EngineFacts(None, None)
