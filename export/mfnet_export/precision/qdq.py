"""Linear layers of an ONNX graph as INT8: explicit QuantizeLinear/DequantizeLinear pairs.

Symmetric throughout, as TensorRT wants it: weights by output channel, activations by tensor.
ONNX Runtime, OpenVINO and TensorRT run such a MatMul in integers and the rest as before. Knows
peaks of activations, not where they come from.

Only products with a large constant weight are layers: convolutions, the products inside
attention and low-rank products stay float; benchmarks/TRIED.md has the numbers.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from mfnet_export.graph.passes import new_constant

LEVELS = 127  # -127..127: symmetric
MIN_SIZE = 32  # rows and columns of a weight; a smaller one costs more to quantise than it saves
# Of peaks that smoothing moves from activations into weights: 0 none, 1 all (arXiv 2211.10438).
# Classes kept on autzen at 0, 0.3, 0.5, 0.7, 0.85: 99.68, 99.70, 99.75, 99.74, 99.76 %.
SMOOTHING = 0.7

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Layer:
    """One linear layer: activation (..., rows) times weight (rows, columns)."""

    node: ir.Node  # a MatMul
    weight: Floats  # (rows, columns)

    @property
    def source(self) -> str:
        """Name of the activation."""
        return _name(self.node.inputs[0])

    @property
    def kind(self) -> str:
        """Layers of one kind have weights of one shape."""
        return "x".join(str(size) for size in self.weight.shape)


def layers_of(model: ir.Model) -> list[Layer]:
    """The linear layers of a graph, in its order."""
    found = []
    for node in model.graph:
        if node.op_type == "MatMul" and constant_of(node.inputs[0]) is None:
            weight = constant_of(node.inputs[1])
            if weight is not None and weight.ndim == 2 and _learned(weight):
                found.append(Layer(node, weight))
    return found


def constant_of(value: ir.Value | None) -> Floats | None:
    """What a weight holds, be it behind a Transpose; None for an activation."""
    if value is None:
        return None
    if value.const_value is not None:
        return value.const_value.numpy()
    node = value.producer()
    if node is None or node.op_type != "Transpose":
        return None
    stored = constant_of(node.inputs[0])
    order = node.attributes.get_ints("perm")
    return None if stored is None else stored.transpose(order)


def _learned(weight: Floats) -> bool:
    """Large, and no table of zeros and ones that only puts values in place."""
    return min(weight.shape) >= MIN_SIZE and not np.isin(weight, (0, 1)).all()


def smooth(
    model: ir.Model, peaks: Mapping[str, Floats], strength: float = SMOOTHING
) -> dict[str, Floats]:
    """Even out the channels that enter linear layers behind a LayerNormalization, in place.

    Exact: what the norm's scale and bias are divided by, the rows of the weights are multiplied
    with. Norms that feed the same weights (two streams) share the factors, and so the weights.

    Args:
        model: Of FP32 weights.
        peaks: As `calibrate.channel_peaks` gives them.
        strength: 0..1, see `SMOOTHING`.

    Returns:
        The peaks of the changed graph.
    """
    groups: dict[tuple[str, ...], list[_Norm]] = {}
    layers = {layer.node: layer for layer in layers_of(model)}
    for node in model.graph:
        if (norm := _norm_of(node, layers)) is not None and norm.source in peaks:
            weights = tuple(_name(layer.node.inputs[1]) for layer in norm.layers)
            groups.setdefault(weights, []).append(norm)
    made, changed = _Constants(model.graph), dict(peaks)
    for index, norms in enumerate(groups.values()):
        columns = np.max([np.abs(layer.weight).max(1) for layer in norms[0].layers], axis=0)
        reached = np.max([peaks[norm.source] for norm in norms], axis=0)
        factor = _positive(reached) ** strength / _positive(columns) ** (1 - strength)
        factor = (factor / np.exp(np.log(factor).mean())).astype(np.float32)
        for norm in norms:
            changed[norm.source] = peaks[norm.source] / factor
            for place in (1, 2):
                held = norm.node.inputs[place]
                made.replace(norm.node, place, constant_of(held) / factor, f"smooth{index}")
            for layer in norm.layers:
                made.replace(layer.node, 1, layer.weight * factor[:, None], f"smooth{index}")
    RemoveUnusedNodesPass()(model)
    return changed


def quantise(model: ir.Model, peaks: Mapping[str, Floats], kept: Collection[int] = ()) -> None:
    """Put Q/DQ pairs before linear layers, in place.

    Args:
        model: Of FP32 weights.
        peaks: Channel peaks of every layer's activation in this very graph.
        kept: Indices into `layers_of` of those to keep in float.
    """
    graph, made = model.graph, _Constants(model.graph)
    pairs: dict[str, ir.Value] = {}  # one pair for all layers an activation enters
    weights: dict[str, ir.Value] = {}
    for index, layer in enumerate(layers_of(model)):
        if index in kept:
            continue
        source, held = layer.node.inputs[0], _name(layer.node.inputs[1])
        if layer.source not in pairs:
            scale = made.new(f"{layer.source}.scale", _scale(peaks[layer.source].max()))
            zero = made.new(f"{layer.source}.zero", np.zeros((), np.int8))
            integers = ir.node("QuantizeLinear", [source, scale, zero])
            floats = ir.node("DequantizeLinear", [integers.outputs[0], scale, zero])
            integers.outputs[0].name = f"{layer.source}.int8"
            floats.outputs[0].name = f"{layer.source}.float"
            before = source.producer() if source is not None else None
            if before is None:
                graph.insert_before(graph[0], [integers, floats])
            else:
                graph.insert_after(before, [integers, floats])
            pairs[layer.source] = floats.outputs[0]
        if held not in weights:
            scale_of_columns = _scale(np.abs(layer.weight).max(0))
            values = np.rint(layer.weight / scale_of_columns).astype(np.int8)
            floats = ir.node(
                "DequantizeLinear",
                [
                    made.new(f"{held}.int8", values),
                    made.new(f"{held}.scale", scale_of_columns),
                    made.new(f"{held}.zero", np.zeros(scale_of_columns.shape, np.int8)),
                ],
                {"axis": 1},
            )
            floats.outputs[0].name = f"{held}.float"
            graph.insert_before(layer.node, floats)
            weights[held] = floats.outputs[0]
        layer.node.replace_input_with(0, pairs[layer.source])
        layer.node.replace_input_with(1, weights[held])
    RemoveUnusedNodesPass()(model)


@dataclass(frozen=True, eq=False)
class _Norm:
    """A LayerNormalization whose output enters linear layers and nothing else."""

    node: ir.Node
    layers: Sequence[Layer]

    @property
    def source(self) -> str:
        return _name(self.node.outputs[0])


def _norm_of(node: ir.Node, layers: Mapping[ir.Node, Layer]) -> _Norm | None:
    if node.op_type != "LayerNormalization" or len(node.inputs) < 3:
        return None
    users = [use.node for use in node.outputs[0].uses()]
    learned = all(constant_of(value) is not None for value in node.inputs[1:3])
    if not learned or not users or any(user not in layers for user in users):
        return None
    return _Norm(node, [layers[user] for user in users])


@dataclass(eq=False)
class _Constants:
    """Initialisers added to a graph, one for each name."""

    graph: ir.Graph
    made: dict[str, ir.Value] = field(default_factory=dict)

    def new(self, name: str, array: npt.NDArray[np.generic]) -> ir.Value:
        if name not in self.made:
            self.made[name] = new_constant(self.graph, name, array)
        return self.made[name]

    def replace(self, node: ir.Node, place: int, array: Floats, suffix: str) -> None:
        name = f"{_name(node.inputs[place])}.{suffix}"
        node.replace_input_with(place, self.new(name, np.ascontiguousarray(array, np.float32)))


def _scale(peak: npt.ArrayLike) -> Floats:
    return np.asarray(_positive(peak) / LEVELS, np.float32)


def _positive(values: npt.ArrayLike) -> Floats:
    """A channel that is always zero has any scale."""
    return np.maximum(np.asarray(values, np.float32), np.float32(1e-6))


def _name(value: ir.Value | None) -> str:
    assert value is not None  # of inputs and outputs that operators must have
    assert value.name is not None  # in a graph that was written to a file
    return value.name
