"""An FP32 graph as FP16: inputs, outputs, weights and arithmetic, but for what is named.

LayerNormalization computes in FP32 inside whatever its tensors are; the type is written into the
graph, since newer versions of TensorRT take it from nowhere else. Knows no ranges of activations.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
from onnx_ir.passes.common import LiftConstantsToInitializersPass, RemoveUnusedNodesPass

from mfnet_export.errors import ExportError
from mfnet_export.graph.passes import new_constant

HALF_MAX = float(np.finfo(np.float16).max)  # 65504
# Operators that move numbers and change none: their output is of their input's type.
LAYOUT = frozenset(
    "Expand Gather GatherND Identity Pad Reshape Slice Split Squeeze Transpose Unsqueeze".split()
)
# Relative error of a weight as a whole; rounding alone makes 2e-4.
LOSSY = 1e-3

FLOAT, HALF = ir.DataType.FLOAT, ir.DataType.FLOAT16


def halve(model: ir.Model, kept: Collection[str] = ()) -> tuple[str, ...]:
    """Write an FP32 graph in FP16, in place; casts stand where the types meet.

    Args:
        model: With a type for every value, as in any file of ours.
        kept: Names of activations whose nodes compute in FP32. What only moves their numbers, and
            a LayerNormalization of them, does too.

    Returns:
        Names of weights of which FP16 keeps less than 99.9 %: too small for it.

    Raises:
        ExportError: a constant does not fit; names it.
        ValueError: a value has no type.
    """
    LiftConstantsToInitializersPass(lift_all_constants=True)(model)
    _without_batch_norms(model)
    types = _Types(model.graph)
    for entry in model.graph.inputs:
        if entry.dtype == FLOAT:
            entry.dtype = HALF
    for node in list(model.graph):
        kind = FLOAT if _is_wide(node, kept) else HALF
        for place, value in enumerate(node.inputs):
            if value is not None and not _is_fixed(node, place, model.opset_imports[""]):
                types.give(node, place, value, kind)
        for made in node.outputs:
            if made.dtype is None:
                raise ValueError(f"{made.name} has no type; infer the graph's first")
            if made.dtype == FLOAT:
                made.dtype = kind
        if node.op_type == "Cast" and node.attributes.get_int("to") == FLOAT:
            node.attributes.add(ir.AttrInt64("to", kind))
    RemoveUnusedNodesPass()(model)
    return tuple(types.lossy)


def _is_wide(node: ir.Node, kept: Collection[str]) -> bool:
    if node.outputs[0].name in kept:
        return True
    if node.op_type not in LAYOUT and node.op_type != "LayerNormalization":
        return False
    # Whatever comes before is halved already, unless it is kept.
    source = node.inputs[0]
    return source is not None and source.const_value is None and source.dtype == FLOAT


def _is_fixed(node: ir.Node, place: int, opset: int) -> bool:
    """Whether the operator takes one type there and no other, as Resize its scales."""
    schema = onnx.defs.get_schema(node.op_type, opset)
    formal = schema.inputs[min(place, len(schema.inputs) - 1)]
    return formal.type_str not in {entry.type_param_str for entry in schema.type_constraints}


@dataclass(eq=False)
class _Types:
    """Casts and constants of the types they are asked for in, each made once."""

    graph: ir.Graph
    made: dict[tuple[ir.Value, ir.DataType], ir.Value] = field(default_factory=dict)
    lossy: list[str] = field(default_factory=list)

    def give(self, node: ir.Node, place: int, value: ir.Value, kind: ir.DataType) -> None:
        """Let the node read a value in this type; integers stay what they are."""
        if value.dtype not in (FLOAT, HALF) or value.dtype == kind:
            return
        if (value, kind) not in self.made:
            self.made[value, kind] = (
                self._cast(node, value, kind)
                if value.const_value is None
                else self._halved(value, value.const_value.numpy())
            )
        node.replace_input_with(place, self.made[value, kind])

    def _cast(self, node: ir.Node, value: ir.Value, kind: ir.DataType) -> ir.Value:
        cast = ir.node("Cast", [value], {"to": kind})
        (made,) = cast.outputs
        made.name, made.dtype, made.shape = f"{value.name}.{kind.name.lower()}", kind, value.shape
        self.graph.insert_before(node, cast)
        return made

    def _halved(self, value: ir.Value, weight: npt.NDArray[np.float32]) -> ir.Value:
        with np.errstate(over="ignore"):
            half = weight.astype(np.float16)
        if not np.isfinite(half).all():
            raise ExportError(
                f"FP16 is refused: constant {value.name} reaches {np.abs(weight).max():.6g}, "
                f"beyond {HALF_MAX:.0f}; keep to FP32"
            )
        norm = np.linalg.norm(weight.ravel().astype(np.float64))
        if np.linalg.norm((weight - half).ravel().astype(np.float64)) > LOSSY * norm:
            self.lossy.append(str(value.name))
        return new_constant(self.graph, f"{value.name}.half", half)


def _without_batch_norms(model: ir.Model) -> None:
    """Write each BatchNormalization as a product and a sum.

    Its variance need not fit into FP16, and TensorRT before 10.7 takes it in FP32 only.
    """
    for node in list(model.graph):
        if node.op_type != "BatchNormalization":
            continue
        gain, shift, mean, variance = (
            value.const_value.numpy().astype(np.float64)[:, None, None]
            for value in node.inputs[1:5]
            if value is not None and value.const_value is not None
        )
        gain = gain / np.sqrt(variance + node.attributes.get_float("epsilon", 1e-5))
        (out,) = node.outputs
        product = ir.node("Mul", [node.inputs[0], _of_norm(model.graph, out, "gain", gain)])
        product.outputs[0].name = f"{out.name}.product"
        product.outputs[0].type, product.outputs[0].shape = out.type, out.shape
        total = _of_norm(model.graph, out, "shift", shift - mean * gain)
        added = ir.node("Add", [product.outputs[0], total])
        ir.convenience.replace_nodes_and_values(
            model.graph, node, [node], [product, added], [out], added.outputs
        )


def _of_norm(graph: ir.Graph, out: ir.Value, name: str, array: npt.NDArray[np.float64]) -> ir.Value:
    return new_constant(graph, f"{out.name}.{name}", array.astype(np.float32))
