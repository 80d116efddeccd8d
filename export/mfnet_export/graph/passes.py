"""Passes over an exported graph: nothing private left in it, nothing dynamic but the batch.

Knows the ONNX operators it looks for and nothing of networks.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from onnx_ir.passes.common import (
    ClearMetadataAndDocStringPass,
    IdentityEliminationPass,
    RemoveUnusedNodesPass,
)

from mfnet_export.errors import ExportError

# What computes shapes, or makes them depend on values.
SHAPE_OPERATORS = {"Shape", "Size", "Range", "NonZero", "ConstantOfShape", "If", "Loop", "Scan"}
SIZES = 3  # index of Resize's input `sizes`


def clean(model: ir.Model) -> None:
    """Static scales for Resize, no idle nodes, none of the exporter's metadata, in place.

    torch writes stack traces with file paths into every node.
    """
    for node in list(model.graph):
        if node.op_type == "Resize":
            _scale_from_sizes(model.graph, node)
    IdentityEliminationPass()(model)
    RemoveUnusedNodesPass()(model)
    ClearMetadataAndDocStringPass()(model)
    for value in (*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
        value.doc_string = None


def require_static(model: ir.Model, batch: str) -> None:
    """Refuse a graph in which the batch is fixed or anything else is dynamic.

    Args:
        model: After `clean`.
        batch: Name of the one symbol dimensions may contain.

    Raises:
        ExportError: names the operators and dimensions in the way.
    """
    faults = Counter(
        f"operator {node.op_type}" for node in model.graph if node.op_type in SHAPE_OPERATORS
    )
    for value in model.graph.inputs:  # torch may pin the batch to its sample's without a word
        if value.shape is None or not isinstance(value.shape[0], ir.SymbolicDim):
            faults[f"input {value.name} of fixed batch"] += 1
    for node in model.graph:
        for value in node.outputs:
            for size in value.shape if value.shape is not None else ("unknown",):
                if isinstance(size, ir.SymbolicDim) and _symbols(size) <= {batch}:
                    continue
                if not isinstance(size, int):
                    faults[f"{node.op_type} of size {size}"] += 1
    if faults:
        found = ", ".join(f"{count} x {fault}" for fault, count in sorted(faults.items()))
        raise ExportError(
            f"the exported graph must vary in its batch and in nothing else, but has {found}: "
            "use the torch and onnxscript versions that mfnet[export] names, and report it"
        )


def new_constant(graph: ir.Graph, name: str, array: npt.NDArray[np.generic]) -> ir.Value:
    """A constant of the graph, of a name that it does not have yet."""
    tensor = ir.tensor(array, name=name)
    kind, shape = ir.TensorType(tensor.dtype), ir.Shape(array.shape)
    value = ir.Value(name=name, shape=shape, type=kind, const_value=tensor)
    graph.register_initializer(value)
    return value


def _symbols(size: ir.SymbolicDim) -> set[str]:
    """Names in a dimension such as 2*N; one without a name is no dimension anybody knows."""
    return {"?"} if size.value is None else {str(symbol) for symbol in size.free_symbols()}


def _scale_from_sizes(graph: ir.Graph, node: ir.Node) -> None:
    """Give a Resize its constant factors in place of a size computed from the batch.

    Exact: a whole factor maps pixels as the sizes do.
    """
    source, target = node.inputs[0], node.outputs[0]
    if len(node.inputs) <= SIZES or node.inputs[SIZES] is None or source is None:
        return
    if source.shape is None or target.shape is None:
        return
    factors = [1.0, 1.0]
    for before, after in zip(source.shape[2:], target.shape[2:], strict=True):
        if not isinstance(before, int) or not isinstance(after, int) or after % before:
            return
        factors.append(after / before)
    scales = new_constant(graph, f"{target.name}_scales", np.array(factors, np.float32))
    node.replace_input_with(SIZES - 1, scales)
    node.resize_inputs(SIZES)
