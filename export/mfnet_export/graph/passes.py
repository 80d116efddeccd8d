"""Passes over an ONNX graph: clean it, require static shapes, lower it to opset 17."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
from onnx_ir.passes.common import (
    ClearMetadataAndDocStringPass,
    IdentityEliminationPass,
    RemoveUnusedNodesPass,
)

from mfnet_export.files import ExportError

# torch's exporter writes opset 18. TensorRT 8.6 reads up to 17, as do all later engines.
OPSET = 17
HALF_SCALES = (19, 9)  # first opset, with its IR version, whose QuantizeLinear takes FP16 scales
REDUCTIONS = ("ReduceL2", "ReduceMax", "ReduceMean")
# Operators that compute shapes, or make shapes depend on values.
SHAPE_OPERATORS = {"Shape", "Size", "Range", "NonZero", "ConstantOfShape", "If", "Loop", "Scan"}
SIZES = 3  # index of Resize's input `sizes`
REMEDY = "use the torch and onnxscript versions that mfnet[export] requires, and report it"


def clean(model: ir.Model) -> None:
    """Make the scales of Resize static and drop idle nodes and exporter metadata, in place.

    torch writes stack traces with file paths into the metadata of every node.
    """
    for node in list(model.graph):
        if node.op_type == "Resize":
            _make_scales_static(model.graph, node)
    IdentityEliminationPass()(model)
    RemoveUnusedNodesPass()(model)
    ClearMetadataAndDocStringPass()(model)
    for value in (*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
        value.doc_string = None


def require_static(model: ir.Model, batch: str) -> None:
    """Refuse a graph with a fixed batch or with any other dynamic dimension.

    Args:
        model: The graph after `clean`.
        batch: The only symbol that dimensions may contain.

    Raises:
        ExportError: Names the operators and dimensions that are not allowed.
    """
    faults = Counter(
        f"operator {node.op_type}" for node in model.graph if node.op_type in SHAPE_OPERATORS
    )
    for value in model.graph.inputs:  # torch may silently fix the batch to that of its sample
        if value.shape is None or not isinstance(value.shape[0], ir.SymbolicDim):
            faults[f"input {value.name} with a fixed batch"] += 1
    for node in model.graph:
        for value in node.outputs:
            for size in value.shape if value.shape is not None else ("unknown",):
                if isinstance(size, ir.SymbolicDim) and _symbols(size) <= {batch}:
                    continue
                if not isinstance(size, int):
                    faults[f"{node.op_type} with size {size}"] += 1
    if faults:
        found = ", ".join(f"{count} x {fault}" for fault, count in sorted(faults.items()))
        raise ExportError(
            f"only the batch of the exported graph may be dynamic, but it has {found}; {REMEDY}"
        )


def add_constant(graph: ir.Graph, name: str, array: npt.NDArray[np.generic]) -> ir.Value:
    """Add a constant to a graph under a name that is not in use yet."""
    tensor = ir.tensor(array, name=name)
    kind, shape = ir.TensorType(tensor.dtype), ir.Shape(array.shape)
    value = ir.Value(name=name, shape=shape, type=kind, const_value=tensor)
    graph.register_initializer(value)
    return value


def lower(model: ir.Model) -> None:
    """Rewrite a graph of opset 18 as opset 17, in place; an older graph is not changed.

    The arithmetic stays exactly the same. torch's own conversion fails on the axes of means.

    Raises:
        ExportError: Names an operator that changed after opset 17 and cannot be converted.
    """
    opset = model.opset_imports[""]
    if opset <= OPSET:
        return
    for node in model.graph:
        if node.domain or onnx.defs.get_schema(node.op_type, opset).since_version <= OPSET:
            continue
        if node.op_type not in _LOWER:
            raise _cannot_lower(node, "there is no rule for it")
        _LOWER[node.op_type](node)
        node.version = OPSET
    model.opset_imports[""] = OPSET
    RemoveUnusedNodesPass()(model)  # constants that became attributes


def allow_half_scales(model: ir.Model) -> None:
    """Rewrite a graph of opset 17 as opset 19, in place.

    The arithmetic stays exactly the same. Reductions and Split are the only operators that changed
    incompatibly. onnx's own converter ends at 2 GiB.
    """
    for node in model.graph:
        if node.op_type in REDUCTIONS and "axes" in node.attributes:
            axes = np.array(node.attributes.pop("axes").as_ints(), np.int64)
            name = f"{node.outputs[0].name}.axes"
            node.resize_inputs(2)
            node.replace_input_with(1, add_constant(model.graph, name, axes))
        elif node.op_type == "Split" and len(node.inputs) == 1:
            node.attributes.add(ir.AttrInt64("num_outputs", len(node.outputs)))
    model.opset_imports[""], model.ir_version = HALF_SCALES


def _lower_reduce(node: ir.Node) -> None:
    """Turn the axes from an input into an attribute."""
    axes = node.inputs[1] if len(node.inputs) > 1 else None
    if axes is not None:
        if axes.const_value is None:
            raise _cannot_lower(node, "its axes are computed")
        node.attributes.add(ir.AttrInt64s("axes", axes.const_value.numpy().tolist()))
    elif node.attributes.get_int("noop_with_empty_axes", 0):
        raise _cannot_lower(node, "it reduces no axes")
    node.attributes.pop("noop_with_empty_axes", None)
    node.resize_inputs(1)


def _lower_split(node: ir.Node) -> None:
    """Drop the number of parts: in opset 17 it is that of the outputs, and the parts are equal."""
    count = node.attributes.pop("num_outputs", None)
    if count is None:
        return
    source, axis = node.inputs[0], node.attributes.get_int("axis", 0)
    size = source.shape[axis] if source is not None and source.shape is not None else None
    if not isinstance(size, int) or size % len(node.outputs):
        raise _cannot_lower(node, f"{len(node.outputs)} equal parts of {size}")


def _lower_pad(node: ir.Node) -> None:
    """Accept a Pad of all axes; opset 18 added the choice of axes."""
    if len(node.inputs) > 3 and node.inputs[3] is not None:
        raise _cannot_lower(node, "it pads some axes only")


def _lower_resize(node: ir.Node) -> None:
    """Drop the attributes that opset 18 added; their defaults are the behaviour of opset 17."""
    if "axes" in node.attributes or node.attributes.get_int("antialias"):
        raise _cannot_lower(node, "it has axes or antialiasing")
    if node.attributes.get_string("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise _cannot_lower(node, "it keeps the aspect ratio")
    for name in ("antialias", "keep_aspect_ratio_policy"):
        node.attributes.pop(name, None)


_LOWER: dict[str, Callable[[ir.Node], None]] = {
    **dict.fromkeys(REDUCTIONS, _lower_reduce),
    "Split": _lower_split,
    "Pad": _lower_pad,
    "Resize": _lower_resize,
}


def _cannot_lower(node: ir.Node, reason: str) -> ExportError:
    return ExportError(
        f"operator {node.op_type} ({node.name}) cannot be written in ONNX opset {OPSET}: "
        f"{reason}; {REMEDY}"
    )


def _symbols(size: ir.SymbolicDim) -> set[str]:
    """Return the symbols in a dimension such as 2*N; a dimension without a name is unknown."""
    return {"?"} if size.value is None else {str(symbol) for symbol in size.free_symbols()}


def _make_scales_static(graph: ir.Graph, node: ir.Node) -> None:
    """Give a Resize constant scales instead of sizes that are computed from the batch.

    Exact, because only whole factors are replaced.
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
    scales = add_constant(graph, f"{target.name}_scales", np.array(factors, np.float32))
    node.replace_input_with(SIZES - 1, scales)
    node.resize_inputs(SIZES)
