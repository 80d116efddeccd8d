"""Conversion of an FP32 graph to FP16, and emulation of an FP16 graph in FP32.

Inputs, outputs, weights and arithmetic become FP16 except for the activations that are kept.
LayerNormalization computes in FP32 internally whatever its tensors are; the tensor types are
written into the graph because strongly typed TensorRT takes them from nowhere else.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
from onnx_ir.passes.common import LiftConstantsToInitializersPass, RemoveUnusedNodesPass

from mfnet_export.files import ExportError
from mfnet_export.graph.passes import add_constant

HALF_MAX = float(np.finfo(np.float16).max)  # 65504
# Operators that move numbers and change none: their output has the type of their input.
LAYOUT = frozenset(
    "Expand Gather GatherND Identity Pad Reshape Slice Split Squeeze Transpose Unsqueeze".split()
)
EXACT = LAYOUT | {"MaxPool", "Relu"}  # operators whose results FP16 holds if it holds the operands
# Results that `emulate_fp16` does not round. Engines multiply the integers instead of the results
# of DequantizeLinear, and round the scaled product only.
UNROUNDED = EXACT | {"DequantizeLinear"}
# Relative error of a whole weight above which it counts as lossy; rounding alone gives 2e-4.
LOSSY = 1e-3

FLOAT, HALF = ir.DataType.FLOAT, ir.DataType.FLOAT16


def cast_to_fp16(model: ir.Model, kept: Collection[str] = ()) -> tuple[str, ...]:
    """Convert an FP32 graph to FP16 in place, with casts where the types meet.

    Args:
        model: FP32 graph with a type for every value.
        kept: Names of activations whose nodes compute in FP32. Nodes that only move their values,
            and a LayerNormalization that reads them, do so too.

    Returns:
        Names of lossy weights: those too small for FP16, which keeps less than 99.9 % of them.

    Raises:
        ExportError: A constant does not fit into FP16; names it.
        ValueError: A value has no type.
    """
    LiftConstantsToInitializersPass(lift_all_constants=True)(model)
    _split_batch_norms(model)
    types = _Types(model.graph)
    for entry in model.graph.inputs:
        if entry.dtype == FLOAT:
            entry.dtype = HALF
    for node in list(model.graph):
        kind = FLOAT if _stays_fp32(node, kept) else HALF
        for place, value in enumerate(node.inputs):
            if value is not None and not _has_fixed_type(node, place, model.opset_imports[""]):
                types.set_input(node, place, value, kind)
        for output in node.outputs:
            if output.dtype is None:
                raise ValueError(f"{output.name} has no type; infer the types of the graph first")
            if output.dtype == FLOAT:
                output.dtype = kind
        if node.op_type == "Cast" and node.attributes.get_int("to") == FLOAT:
            node.attributes.add(ir.AttrInt64("to", kind))
    RemoveUnusedNodesPass()(model)
    return tuple(types.lossy)


def emulate_fp16(model: ir.Model) -> None:
    """Rewrite an FP16 graph as an FP32 graph that rounds like it, in place.

    Every node computes in FP32 from operands that FP16 can hold, and its result is rounded to
    FP16. This models tensor cores, which accumulate in FP32. A real engine may differ: a fused
    kernel rounds less often, sums have another order, and accumulation may be in FP16.
    ONNX Runtime runs the result about as fast as FP32; on a CPU it runs FP16 nodes themselves a
    hundred times slower. Nodes that are FP32 already are not changed.
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
            node.attributes.add(ir.AttrInt64("to", FLOAT))  # `_round` adds the rounding
        for value in node.outputs:
            if value.dtype == HALF:
                value.dtype = FLOAT
                if node.op_type not in UNROUNDED:
                    _round(graph, value)


def _round(graph: ir.Graph, value: ir.Value) -> None:
    """Let all readers of a value read it rounded to FP16."""
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


def _stays_fp32(node: ir.Node, kept: Collection[str]) -> bool:
    if node.outputs[0].name in kept:
        return True
    if node.op_type not in LAYOUT and node.op_type != "LayerNormalization":
        return False
    # Nodes come in order of execution: the source is FP16 by now unless it is kept.
    source = node.inputs[0]
    return source is not None and source.const_value is None and source.dtype == FLOAT


def _has_fixed_type(node: ir.Node, place: int, opset: int) -> bool:
    """Return True if the operator allows one type only for this input, as Resize for its scales."""
    schema = onnx.defs.get_schema(node.op_type, opset)
    formal = schema.inputs[min(place, len(schema.inputs) - 1)]
    return formal.type_str not in {entry.type_param_str for entry in schema.type_constraints}


@dataclass(eq=False)
class _Types:
    """Casts and converted constants, each made once."""

    graph: ir.Graph
    made: dict[tuple[ir.Value, ir.DataType], ir.Value] = field(default_factory=dict)
    lossy: list[str] = field(default_factory=list)

    def set_input(self, node: ir.Node, place: int, value: ir.Value, kind: ir.DataType) -> None:
        """Let a node read a value in this type; integers are not changed."""
        if value.dtype not in (FLOAT, HALF) or value.dtype == kind:
            return
        if (value, kind) not in self.made:
            self.made[value, kind] = (
                self._cast(node, value, kind)
                if value.const_value is None
                else self._half_constant(value, value.const_value.numpy())
            )
        node.replace_input_with(place, self.made[value, kind])

    def _cast(self, node: ir.Node, value: ir.Value, kind: ir.DataType) -> ir.Value:
        cast = ir.node("Cast", [value], {"to": kind})
        (made,) = cast.outputs
        made.name, made.dtype, made.shape = f"{value.name}.{kind.name.lower()}", kind, value.shape
        self.graph.insert_before(node, cast)
        return made

    def _half_constant(self, value: ir.Value, weight: npt.NDArray[np.float32]) -> ir.Value:
        with np.errstate(over="ignore"):
            half = weight.astype(np.float16)
        if not np.isfinite(half).all():
            raise ExportError(
                f"FP16 is refused: constant {value.name} reaches {np.abs(weight).max():.6g}, "
                f"the limit of FP16 is {HALF_MAX:.0f}; use the FP32 file"
            )
        norm = np.linalg.norm(weight.ravel().astype(np.float64))
        if np.linalg.norm((weight - half).ravel().astype(np.float64)) > LOSSY * norm:
            self.lossy.append(str(value.name))
        return add_constant(self.graph, f"{value.name}.half", half)


def _split_batch_norms(model: ir.Model) -> None:
    """Replace each BatchNormalization with a product and a sum.

    Its variance may not fit into FP16, and TensorRT before 10.7 accepts it in FP32 only.
    """
    graph = model.graph
    for node in list(graph):
        if node.op_type != "BatchNormalization":
            continue
        gain, shift, mean, variance = (
            value.const_value.numpy().astype(np.float64)[:, None, None]
            for value in node.inputs[1:5]
            if value is not None and value.const_value is not None
        )
        gain = gain / np.sqrt(variance + node.attributes.get_float("epsilon", 1e-5))
        shift = shift - mean * gain
        (out,) = node.outputs
        factor = add_constant(graph, f"{out.name}.gain", gain.astype(np.float32))
        term = add_constant(graph, f"{out.name}.shift", shift.astype(np.float32))
        multiply = ir.node("Mul", [node.inputs[0], factor])
        product = multiply.outputs[0]
        product.name, product.type, product.shape = f"{out.name}.product", out.type, out.shape
        add = ir.node("Add", [product, term])
        ir.convenience.replace_nodes_and_values(
            graph, node, [node], [multiply, add], [out], add.outputs
        )
