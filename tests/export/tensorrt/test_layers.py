"""Layers that the engine inspector of full TensorRT lists."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mfnet_export.tensorrt.layers import counts_from_inspector
from mfnet_runtime.backends.tensorrt.plan_file import LayerCounts


def layer(name: str, kind: str = "kgen", tactic: str = "", metadata: str = "") -> dict[str, Any]:
    return {"Name": name, "LayerType": kind, "TacticName": tactic, "Metadata": metadata}


# Named by TensorRT: the first two in reports on 10.x, the others known to NVIDIA's own tools.
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
IDLE = [layer("__mye6918", "signal"), layer("__mye6920", "wait"), layer("s", "shape_call")]
OPAQUE = layer("{ForeignNode[node_conv2d...node_Reshape_9]}", "Myelin")


@pytest.mark.parametrize("entry", FUSED)
def test_fused_attention_is_known_by_name(entry: dict[str, Any]) -> None:
    text = json.dumps({"Layers": [entry, *OTHERS], "Bindings": ["image", "dsm", "logits"]})
    assert counts_from_inspector(text) == LayerCounts(4, 1)
    names = json.dumps({"Layers": [entry["Name"], *(other["Name"] for other in OTHERS)]})
    by_tactic_only = entry["TacticName"].startswith("fmha")
    assert counts_from_inspector(names) == LayerCounts(4, 0 if by_tactic_only else 1)


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        (json.dumps({"Layers": [*IDLE, *OTHERS]}), LayerCounts(3, 0)),
        (json.dumps({"Layers": [OPAQUE, *OTHERS]}), LayerCounts(4)),
        *((text, LayerCounts()) for text in ("", "null", "{}", '{"Layers": null}', "Layer(...)")),
    ],
)
def test_layers_that_do_not_count(text: str, counts: LayerCounts) -> None:
    assert counts_from_inspector(text) == counts
