"""INT8 linear layers: explicit QuantizeLinear/DequantizeLinear pairs around MatMul.

Everything is symmetric, as TensorRT requires: weights per output channel, activations per tensor.
ONNX Runtime, OpenVINO and TensorRT run such a MatMul in integers and the rest of the graph as
before. Only products with a large constant weight are quantised. Convolutions, the products inside
attention and low-rank products stay in float; benchmarks/TRIED.md has the numbers.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from mfnet_export.graph.passes import add_constant

LEVELS = 127  # -127..127: symmetric
MIN_SIZE = 32  # rows and columns; a smaller weight costs more to quantise than it saves
# Share of the peaks that smoothing moves from activations into weights (arXiv 2211.10438).
# Pixels with the same class on autzen at 0, 0.3, 0.5, 0.7, 0.85: 99.68, 99.70, 99.75, 99.74,
# 99.76 %.
SMOOTHING = 0.7

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Layer:
    """A linear layer: activation (..., rows) times weight (rows, columns)."""

    node: ir.Node  # a MatMul
    weight: Floats  # (rows, columns)

    @property
    def source(self) -> str:
        """Name of the activation."""
        return _name(self.node.inputs[0])

    @property
    def kind(self) -> str:
        """Shape of the weight, for example `768x3072`."""
        return "x".join(str(size) for size in self.weight.shape)


def linear_layers(model: ir.Model) -> list[Layer]:
    """Return the linear layers of a graph in its order."""
    found = []
    for node in model.graph:
        if node.op_type == "MatMul" and constant_value(node.inputs[0]) is None:
            weight = constant_value(node.inputs[1])
            # Tables of zeros and ones only move values.
            large = weight is not None and weight.ndim == 2 and min(weight.shape) >= MIN_SIZE
            if weight is not None and large and not np.isin(weight, (0, 1)).all():
                found.append(Layer(node, weight))
    return found


def constant_value(value: ir.Value | None) -> Floats | None:
    """Return a constant, possibly read through a Transpose; None for an activation."""
    if value is None:
        return None
    if value.const_value is not None:
        return value.const_value.numpy()
    node = value.producer()
    if node is None or node.op_type != "Transpose":
        return None
    stored = constant_value(node.inputs[0])
    return None if stored is None else stored.transpose(node.attributes.get_ints("perm"))


def smooth(
    model: ir.Model, peaks: Mapping[str, Floats], strength: float = SMOOTHING
) -> dict[str, Floats]:
    """Even out the channels that enter linear layers after a LayerNormalization, in place.

    Exact: the scale and bias of the norm are divided by factors, and the rows of the weights are
    multiplied by them. Norms that feed the same weights (two streams) share their factors.

    Args:
        model: Graph with FP32 weights.
        peaks: Largest magnitude in each channel of every linear layer's activation.
        strength: 0 to 1, see `SMOOTHING`.

    Returns:
        The peaks of the changed graph.
    """
    graph = model.graph
    layers = {layer.node: layer for layer in linear_layers(model)}
    groups: dict[tuple[str, ...], list[tuple[ir.Node, list[Layer]]]] = {}
    for norm in graph:
        fed = _layers_after_norm(norm, layers)
        if fed and _name(norm.outputs[0]) in peaks:
            weights = tuple(_name(layer.node.inputs[1]) for layer in fed)
            groups.setdefault(weights, []).append((norm, fed))
    changed = dict(peaks)
    for index, group in enumerate(groups.values()):
        columns = np.max([np.abs(layer.weight).max(1) for layer in group[0][1]], axis=0)
        reached = np.max([peaks[_name(norm.outputs[0])] for norm, _ in group], axis=0)
        factor = _positive(reached) ** strength / _positive(columns) ** (1 - strength)
        factor = (factor / np.exp(np.log(factor).mean())).astype(np.float32)
        for norm, fed in group:
            changed[_name(norm.outputs[0])] = peaks[_name(norm.outputs[0])] / factor
            scaled = [
                (norm, place, constant_value(norm.inputs[place]) / factor) for place in (1, 2)
            ]
            scaled += [(layer.node, 1, layer.weight * factor[:, None]) for layer in fed]
            for node, place, array in scaled:
                name = f"{_name(node.inputs[place])}.smooth{index}"
                value = _constant(graph, name, np.ascontiguousarray(array, np.float32))
                node.replace_input_with(place, value)
    RemoveUnusedNodesPass()(model)
    return changed


def quantise(model: ir.Model, peaks: Mapping[str, Floats], kept: Collection[int] = ()) -> None:
    """Put Q/DQ pairs before linear layers, in place.

    Args:
        model: Graph with FP32 weights.
        peaks: Largest magnitude in each channel of every linear layer's activation.
        kept: Indices into `linear_layers` of the layers that stay in float.
    """
    graph = model.graph
    activations: dict[str, ir.Value] = {}  # one pair for all layers that read an activation
    weights: dict[str, ir.Value] = {}
    for index, layer in enumerate(linear_layers(model)):
        if index in kept:
            continue
        name, weight = layer.source, _name(layer.node.inputs[1])
        if name not in activations:
            activations[name] = _quantised_activation(graph, layer.node, peaks[name].max())
        if weight not in weights:
            weights[weight] = _quantised_weight(graph, layer, weight)
        layer.node.replace_input_with(0, activations[name])
        layer.node.replace_input_with(1, weights[weight])
    RemoveUnusedNodesPass()(model)


def move_biases(model: ir.Model) -> None:
    """Add the biases of quantised q, k and v behind the Reshape into (3, heads, d), in place.

    Exact. With a bias in between, TensorRT cuts the weight apart and multiplies in FP16.
    """
    graph = model.graph
    for reshape in list(graph):
        add = _made_by("Add", reshape.inputs[0]) if reshape.op_type == "Reshape" else None
        layer = _made_by("MatMul", add.inputs[0]) if add is not None else None
        if add is None or layer is None or not _made_by("DequantizeLinear", layer.inputs[1]):
            continue
        (biased,), (shaped,) = add.outputs, reshape.outputs
        bias, shape = constant_value(add.inputs[1]), shaped.shape
        if bias is None or shape is None or len(biased.uses()) > 1:
            continue
        parts = [size for size in shape[-3:] if isinstance(size, int)]
        if math.prod(parts) != bias.size:
            continue
        reshape.replace_input_with(0, layer.outputs[0])
        ir.convenience.replace_all_uses_with(shaped, biased)
        name = f"{_name(add.inputs[1])}.parts"
        add.replace_input_with(0, shaped)
        add.replace_input_with(1, _constant(graph, name, bias.reshape(parts)))
        biased.shape = shape
        graph.remove(add)
        graph.insert_after(reshape, add)
    RemoveUnusedNodesPass()(model)


def _quantised_activation(graph: ir.Graph, reader: ir.Node, peak: npt.ArrayLike) -> ir.Value:
    source = reader.inputs[0]
    name = _name(source)
    scale = _constant(graph, f"{name}.scale", _scale(peak))
    zero = _constant(graph, f"{name}.zero", np.zeros((), np.int8))
    assert source is not None
    quantised = ir.node("QuantizeLinear", [source, scale, zero])
    _describe(quantised, f"{name}.int8", ir.DataType.INT8, source.shape)
    restored = ir.node("DequantizeLinear", [quantised.outputs[0], scale, zero])
    _describe(restored, f"{name}.float", ir.DataType.FLOAT, source.shape)
    producer = source.producer()
    if producer is None:
        graph.insert_before(graph[0], [quantised, restored])
    else:
        graph.insert_after(producer, [quantised, restored])
    return restored.outputs[0]


def _quantised_weight(graph: ir.Graph, layer: Layer, name: str) -> ir.Value:
    scale = _scale(np.abs(layer.weight).max(0))
    inputs = [
        _constant(graph, f"{name}.int8", np.rint(layer.weight / scale).astype(np.int8)),
        _constant(graph, f"{name}.scale", scale),
        _constant(graph, f"{name}.zero", np.zeros(scale.shape, np.int8)),
    ]
    restored = ir.node("DequantizeLinear", inputs, {"axis": 1})
    _describe(restored, f"{name}.float", ir.DataType.FLOAT, ir.Shape(layer.weight.shape))
    graph.insert_before(layer.node, restored)
    return restored.outputs[0]


def _made_by(operator: str, value: ir.Value | None) -> ir.Node | None:
    """Return the node that computes a value if it has this operator."""
    node = value.producer() if value is not None else None
    return node if node is not None and node.op_type == operator else None


def _layers_after_norm(node: ir.Node, layers: Mapping[ir.Node, Layer]) -> list[Layer]:
    """Return the layers that read a LayerNormalization; empty if anything else reads it too."""
    if node.op_type != "LayerNormalization" or len(node.inputs) < 3:
        return []
    users = [use.node for use in node.outputs[0].uses()]
    constant = all(constant_value(value) is not None for value in node.inputs[1:3])
    return [layers[user] for user in users] if constant and set(users) <= set(layers) else []


def _constant(graph: ir.Graph, name: str, array: npt.NDArray[np.generic]) -> ir.Value:
    """Return the constant of this name, added if the graph does not have it yet."""
    known = graph.initializers.get(name)
    return add_constant(graph, name, array) if known is None else known


def _describe(node: ir.Node, name: str, kind: ir.DataType, shape: ir.Shape | None) -> None:
    """Name the only output of a node, and give it a type and a shape."""
    (value,) = node.outputs
    value.name, value.dtype, value.shape = name, kind, shape


def _scale(peak: npt.ArrayLike) -> Floats:
    """Return the scale for a peak, rounded up to the next number that FP16 has.

    The same integers then serve an FP16 graph. Rounding down would clip; it would also make zero of
    scales that are too small for FP16. Scales that are too large for it are not rounded.
    """
    scale = np.asarray(_positive(peak) / LEVELS, np.float32)
    with np.errstate(over="ignore"):
        half = scale.astype(np.float16)
    half = np.where(half < scale, np.nextafter(half, np.float16(np.inf)), half)
    return np.where(np.isfinite(half), half, scale).astype(np.float32)


def _positive(values: npt.ArrayLike) -> Floats:
    """Raise zeros: a channel that is always zero may have any scale."""
    return np.maximum(np.asarray(values, np.float32), np.float32(1e-6))


def _name(value: ir.Value | None) -> str:
    assert value is not None  # inputs and outputs that the operator must have
    assert value.name is not None  # every value in a file has a name
    return value.name
