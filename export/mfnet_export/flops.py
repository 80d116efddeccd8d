"""Floating-point operations of one window: of a network and of an ONNX file.

Counted are matrix products and convolutions, a multiplication and an addition as two; what is
left out (normalisation, softmax, activations) is under one in a hundred. Knows no speeds.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from pathlib import Path

import onnx
import torch
from onnx import shape_inference
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from mfnet.model.network import MFNet
from mfnet_export.errors import ExportError

GIGA = 1e9
KEPT_BYTES = 4096  # of a constant: shapes and axes are smaller, weights larger
Shape = tuple[int, ...]


def gflop_from_network(network: MFNet) -> float:
    """GFLOP of one window, from shapes alone: nothing is computed.

    Args:
        network: Merged or not, of any device.
    """
    side = network.config.window
    weights = {name: tensor.to("meta") for name, tensor in network.state_dict().items()}
    hidden = {name: tensor.to("meta") for name, tensor in network.named_buffers()}
    dtype = next(network.parameters()).dtype
    windows = tuple(
        torch.empty(1, bands, side, side, dtype=dtype, device="meta") for bands in (3, 1)
    )
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        functional_call(network, {**weights, **hidden}, windows, tie_weights=False)
    return float(counter.get_total_flops()) / GIGA


def gflop_from_onnx(path: Path) -> float:
    """GFLOP of one window, from the graph's shapes at a batch of one.

    Weights beside the file are not read.

    Raises:
        ExportError: a product's shape cannot be told.
    """
    model = onnx.load(path, load_external_data=False)
    for value in (*model.graph.input, *model.graph.output):
        if value.type.tensor_type.HasField("shape"):
            value.type.tensor_type.shape.dim[0].dim_value = 1
    del model.graph.value_info[:]  # speaks of N
    for constant in model.graph.initializer:  # inference copies the whole file
        if len(constant.raw_data) > KEPT_BYTES:
            constant.ClearField("raw_data")
    graph = shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {
        value.name: tuple(size.dim_value for size in value.type.tensor_type.shape.dim)
        for value in (*graph.input, *graph.value_info, *graph.output)
    }
    shapes |= {constant.name: tuple(constant.dims) for constant in graph.initializer}
    total = 0
    for node in graph.node:
        if node.op_type in PRODUCTS:
            try:
                inputs = [shapes[name] for name in node.input if name]
                count = PRODUCTS[node.op_type](inputs, shapes[node.output[0]], node)
            except KeyError as fault:
                raise ExportError(f"{path}: no shape for {fault} of {node.op_type}") from fault
            if not count:  # a size that inference left open reads 0
                raise ExportError(f"{path}: no size for {node.output[0]} of {node.op_type}")
            total += 2 * count
    return total / GIGA


def _matmul(inputs: list[Shape], output: Shape, node: onnx.NodeProto) -> int:
    return prod(output) * inputs[0][-1]


def _gemm(inputs: list[Shape], output: Shape, node: onnx.NodeProto) -> int:
    transposed = any(fact.name == "transA" and fact.i for fact in node.attribute)
    return prod(output) * inputs[0][0 if transposed else 1]


def _conv(inputs: list[Shape], output: Shape, node: onnx.NodeProto) -> int:
    return prod(output) * prod(inputs[1][1:])  # weight (outputs, inputs / groups, rows, columns)


def _conv_transpose(inputs: list[Shape], output: Shape, node: onnx.NodeProto) -> int:
    return prod(inputs[0]) * prod(inputs[1][1:])  # weight (inputs, outputs / groups, ...)


def _einsum(inputs: list[Shape], output: Shape, node: onnx.NodeProto) -> int:
    equation = next(fact.s.decode() for fact in node.attribute if fact.name == "equation")
    terms = equation.replace(" ", "").partition("->")[0].split(",")
    sizes = {
        letter: size
        for term, shape in zip(terms, inputs, strict=True)
        for letter, size in zip(term, shape, strict=True)
    }
    return prod(sizes.values())


PRODUCTS: dict[str, Callable[[list[Shape], Shape, onnx.NodeProto], int]] = {
    "MatMul": _matmul,
    "Gemm": _gemm,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Einsum": _einsum,
}
