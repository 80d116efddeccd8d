"""What a builder must know of an ONNX graph beyond its parser: nodes by index, FP32 islands,
attention. Weights are not read. Knows no TensorRT.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx

# Head sizes that TensorRT has fused kernels for; the fusion decoder's, 8, is below.
FUSED_HEADS = range(16, 257)


@dataclass(frozen=True)
class PlanGraph:
    """Facts of a graph."""

    nodes: tuple[tuple[str, str], ...]  # name and operator, in the order of the file
    islands: frozenset[str]  # names of the nodes that compute in FP32
    attentions: int  # those of a head size in FUSED_HEADS


def graph_from_onnx(path: Path) -> PlanGraph:
    """Read the graph of a file, not its weights.

    Args:
        path: A valid ONNX file, its shapes written in it as mfnet-export does.
    """
    graph = onnx.load(path, load_external_data=False).graph
    types = {value.name: value.type.tensor_type for value in (*graph.value_info, *graph.output)}
    single = {
        node.name
        for node in graph.node
        if node.op_type != "Cast"
        and any(_is_single(types[name]) for name in node.output if name in types)
    }
    weights = {name for node in graph.node if node.op_type == "Softmax" for name in node.output}
    read = (node for node in graph.node if node.op_type == "MatMul" and node.input[0] in weights)
    heads = (types[node.output[0]].shape.dim[-1].dim_value for node in read)
    return PlanGraph(
        nodes=tuple((node.name, node.op_type) for node in graph.node),
        islands=frozenset(single),
        attentions=sum(head in FUSED_HEADS for head in heads),
    )


def _is_single(kind: onnx.TypeProto.Tensor) -> bool:
    return kind.elem_type == onnx.TensorProto.FLOAT
