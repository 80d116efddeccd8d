"""An FP16 graph as an FP32 one that rounds as it does, for a CPU: a model of what a GPU computes.

Every node computes in FP32 from operands that FP16 holds, and its result is rounded to FP16. That
is what tensor cores do, which add up in FP32. It is a model: a fused kernel rounds less often,
sums have another order, and an engine may choose to add up in FP16.
ONNX Runtime keeps the casts, and runs the graph at about FP32's speed; FP16 nodes themselves take
its CPU provider a hundred times as long.
"""

from __future__ import annotations

import onnx_ir as ir

from mfnet_export.precision.fp16_cast import FLOAT, HALF, LAYOUT

EXACT = LAYOUT | {"MaxPool", "Relu"}  # of numbers that FP16 holds, they make no others


def emulate(model: ir.Model) -> None:
    """Rewrite an FP16 graph to FP32 with rounding, in place; FP32 in, FP32 out.

    What is FP32 in it already stays as it is.
    """
    graph = model.graph
    for value in graph.initializers.values():
        if value.dtype == HALF and value.const_value is not None:
            value.const_value = ir.tensor(value.const_value.numpy().astype("f4"), name=value.name)
            value.dtype = FLOAT
    nodes = list(graph)
    for value in graph.inputs:
        if value.dtype == HALF:
            value.dtype = FLOAT
            _round(graph, value)
    for node in nodes:
        if node.op_type == "Cast" and node.attributes.get_int("to") == HALF:
            node.attributes.add(ir.AttrInt64("to", FLOAT))  # the rounding follows
        for value in node.outputs:
            if value.dtype == HALF:
                value.dtype = FLOAT
                if node.op_type not in EXACT:
                    _round(graph, value)


def _round(graph: ir.Graph, value: ir.Value) -> None:
    """Let all that read a value read it rounded to FP16."""
    first = ir.node("Cast", [value], {"to": HALF})
    second = ir.node("Cast", [first.outputs[0]], {"to": FLOAT})
    (half,), (rounded,) = first.outputs, second.outputs
    half.dtype, rounded.dtype = HALF, FLOAT
    half.shape = rounded.shape = value.shape
    name, node = value.name, value.producer()
    ir.convenience.replace_all_uses_with(value, rounded, replace_graph_outputs=True)
    first.replace_input_with(0, value)
    half.name, rounded.name = f"{name}.fp16", f"{name}.rounded"
    if rounded.is_graph_output():
        value.name, rounded.name = f"{name}.exact", name
    if node is None:
        graph.insert_before(graph[0], [first, second])
    else:
        graph.insert_after(node, [first, second])
