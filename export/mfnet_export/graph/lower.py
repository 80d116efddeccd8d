"""A graph of ONNX opset 18 as opset 17, which TensorRT 8.6 reads and every later engine too.

torch writes 18, and its own way down fails on the axes of means. The few operators that changed
in between are rewritten here; any other that did is refused. Knows nothing of networks.
"""

from __future__ import annotations

from collections.abc import Callable

import onnx
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from mfnet_export.errors import ExportError

OPSET = 17
_REDUCE = ("ReduceL1", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd")


def lower(model: ir.Model) -> None:
    """Rewrite a graph of opset 18 to opset 17, in place; of an older one, nothing.

    Exact: the same arithmetic, said in other words.

    Raises:
        ExportError: an operator that changed and that no rule here knows, or one that opset 17
            cannot express; names both.
    """
    if model.opset_imports[""] <= OPSET:
        return
    for node in model.graph:
        if node.domain == "" and _since(node.op_type, model.opset_imports[""]) > OPSET:
            if node.op_type not in _RULES:
                raise _refusal(node, "no rule says how")
            _RULES[node.op_type](node)
            node.version = OPSET
    model.opset_imports[""] = OPSET
    RemoveUnusedNodesPass()(model)  # and with them what were axes


def _since(operator: str, opset: int) -> int:
    """The opset in which an operator last changed, up to `opset`."""
    return int(onnx.defs.get_schema(operator, opset).since_version)


def _reduce(node: ir.Node) -> None:
    """Axes are an attribute up to 17, an input from 18 on."""
    given = node.inputs[1] if len(node.inputs) > 1 else None
    if given is not None:
        if given.const_value is None:
            raise _refusal(node, "its axes are computed")
        node.attributes.add(ir.AttrInt64s("axes", given.const_value.numpy().tolist()))
    elif node.attributes.get_int("noop_with_empty_axes", 0):
        raise _refusal(node, "it has no axes and does nothing")
    node.attributes.pop("noop_with_empty_axes", None)
    node.resize_inputs(1)


def _split(node: ir.Node) -> None:
    """The number of parts is told by the outputs; without sizes they are equal."""
    count = node.attributes.pop("num_outputs", None)
    if count is None:
        return
    source, axis = node.inputs[0], node.attributes.get_int("axis", 0)
    size = source.shape[axis] if source is not None and source.shape is not None else None
    if not isinstance(size, int) or size % len(node.outputs):
        raise _refusal(node, f"{len(node.outputs)} equal parts of {size}")


def _pad(node: ir.Node) -> None:
    """Axes came in 18; without them all are padded, as before."""
    if len(node.inputs) > 3 and node.inputs[3] is not None:
        raise _refusal(node, "it pads some axes only")


def _resize(node: ir.Node) -> None:
    """Axes, antialiasing and aspect ratios came in 18; their defaults are what was before."""
    if "axes" in node.attributes or node.attributes.get_int("antialias"):
        raise _refusal(node, "it has axes or antialiasing")
    if node.attributes.get_string("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise _refusal(node, "it keeps the aspect ratio")
    for name in ("antialias", "keep_aspect_ratio_policy"):
        node.attributes.pop(name, None)


_RULES: dict[str, Callable[[ir.Node], None]] = {
    **dict.fromkeys(_REDUCE, _reduce),
    "Split": _split,
    "Pad": _pad,
    "Resize": _resize,
}


def _refusal(node: ir.Node, why: str) -> ExportError:
    return ExportError(
        f"operator {node.op_type} ({node.name}) cannot be written in ONNX opset {OPSET}: {why}; "
        "use the torch and onnxscript versions that mfnet[export] names, and report it"
    )
