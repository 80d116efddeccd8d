"""Floating-point operations per window of a network or an ONNX file.

Only matrix products and convolutions count, each multiplication and each addition as one. The
rest (normalisation, softmax, activations) is less than 1 % of the work.
"""

from __future__ import annotations

from math import prod
from pathlib import Path

import onnx
import torch
from onnx import shape_inference
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from mfnet.model.network import MFNet
from mfnet_export.files import ExportError

GIGA = 1e9
KEPT_BYTES = 4096  # constants above this size are weights, not shapes or axes
Shape = tuple[int, ...]


def gflop_from_network(network: MFNet) -> float:
    """Count the GFLOP per window of a network, from shapes alone, without computing anything."""
    side = network.config.window
    weights = {name: tensor.to("meta") for name, tensor in network.state_dict().items()}
    buffers = {name: tensor.to("meta") for name, tensor in network.named_buffers()}
    dtype = next(network.parameters()).dtype
    windows = tuple(
        torch.empty(1, bands, side, side, dtype=dtype, device="meta") for bands in (3, 1)
    )
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        functional_call(network, {**weights, **buffers}, windows, tie_weights=False)
    return float(counter.get_total_flops()) / GIGA


def gflop_from_onnx(path: Path) -> float:
    """Count the GFLOP per window of an ONNX file, from its shapes at a batch of one.

    Weights beside the file are not read.

    Raises:
        ExportError: The shape of a product cannot be inferred.
    """
    model = onnx.load(path, load_external_data=False)
    for value in (*model.graph.input, *model.graph.output):
        if value.type.tensor_type.HasField("shape"):
            value.type.tensor_type.shape.dim[0].dim_value = 1
    del model.graph.value_info[:]  # its shapes contain N
    for constant in model.graph.initializer:  # inference would copy all weights
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
        if node.op_type in ("MatMul", "Gemm", "Conv", "ConvTranspose"):
            try:
                inputs = [shapes[name] for name in node.input if name]
                count = _multiplications(node, inputs, shapes[node.output[0]])
            except KeyError as fault:
                raise ExportError(f"{path}: no shape of {fault} at {node.op_type}") from fault
            if not count:  # a size that inference cannot determine reads as 0
                raise ExportError(f"{path}: no size of {node.output[0]} at {node.op_type}")
            total += 2 * count
    return total / GIGA


def _multiplications(node: onnx.NodeProto, inputs: list[Shape], output: Shape) -> int:
    first, weight = inputs[:2]
    match node.op_type:
        case "Conv":  # weight (outputs, inputs / groups, rows, columns)
            return prod(output) * prod(weight[1:])
        case "ConvTranspose":  # weight (inputs, outputs / groups, rows, columns)
            return prod(first) * prod(weight[1:])
        case "Gemm" if any(fact.name == "transA" and fact.i for fact in node.attribute):
            return prod(output) * first[0]
        case _:
            return prod(output) * first[-1]
