"""ONNX file to TensorRT network, checked against its contract.

Strongly typed where TensorRT can, so that every tensor has the type it has in the file. TensorRT
8.6 cannot: where FP16 is allowed it may also compute in FP16 what the file has in FP32, so nodes
in FP32 are told so one by one. Native LayerNormalization is not among them: its sums are in FP32
unless asked otherwise, whatever its tensors are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mfnet_export.errors import ExportError
from mfnet_export.tensorrt.graph import PlanGraph, graph_from_onnx
from mfnet_runtime.backends.base import specs_of
from mfnet_runtime.backends.model_checks import require_graph
from mfnet_runtime.contract import Contract

FLOATS = {"fp32": np.float32, "fp16": np.float16}  # precisions that plans are built in


@dataclass(frozen=True)
class TrtNetwork:
    """A network and what was learnt of it on the way."""

    network: Any  # INetworkDefinition
    parser: Any  # holds the weights: must live until the plan is built
    graph: PlanGraph


def strongly_typed(trt: Any) -> bool:
    """Whether this TensorRT keeps to the types of a file."""
    return hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")


def network_from_onnx(
    trt: Any,
    builder: Any,
    logger: Any,
    path: Path,
    contract: Contract,
    native_only: bool,
    tell: Callable[[str], None],
) -> TrtNetwork:
    """Read a file into a network.

    Args:
        trt: The module.
        builder: Its builder.
        logger: Of the same module.
        path: The file; weights beside it are found.
        contract: The file's own.
        native_only: No plugins, which plans for other versions or GPUs cannot hold.
        tell: Told of each node that cannot be read.

    Raises:
        ExportError: TensorRT cannot read the file.
        ModelError: its inputs or outputs are not those of its contract.
    """
    network = builder.create_network(1 << int(_mode(trt)))
    parser = trt.OnnxParser(network, logger)
    if native_only:
        parser.set_flag(trt.OnnxParserFlag.NATIVE_INSTANCENORM)
    graph = graph_from_onnx(path)
    if not parser.parse_from_file(str(path)):
        faults = [_fault_text(parser.get_error(i), graph) for i in range(parser.num_errors)]
        for fault in faults:
            tell(fault)
        raise ExportError(
            f"{path}: TensorRT {trt.__version__} cannot read it "
            f"({faults[0] if faults else logger.reason}); export it again with mfnet-export"
        )
    _require_contract(trt, network, path, contract)
    return TrtNetwork(network, parser, graph)


def allow_fp16(trt: Any, config: Any, read: TrtNetwork) -> None:
    """Let a weakly typed network compute in FP16, but where its file computes in FP32.

    Nothing there is left to TensorRT: a node that FP16 would overflow in is run in FP32, or the
    build fails. A strongly typed network needs no leave.

    Raises:
        ExportError: a node that is to be in FP32 is not among TensorRT's layers.
    """
    if strongly_typed(trt):
        return
    config.set_flag(trt.BuilderFlag.FP16)
    if not read.graph.islands:
        return
    config.set_flag(trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)
    network, left = read.network, set(read.graph.islands)
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.name in left:
            left.remove(layer.name)
            layer.precision = trt.DataType.FLOAT
            for output in range(layer.num_outputs):
                layer.set_output_type(output, trt.DataType.FLOAT)
    if left:
        raise ExportError(
            f"TensorRT {trt.__version__} cannot be told to compute {', '.join(sorted(left)[:3])} "
            "in FP32, as the file does; use TensorRT 10 or newer, or the FP32 file"
        )


def _mode(trt: Any) -> Any:
    """How a network is created; the batch is explicit without saying since 10."""
    created = trt.NetworkDefinitionCreationFlag
    return created.STRONGLY_TYPED if strongly_typed(trt) else created.EXPLICIT_BATCH


def _fault_text(fault: Any, graph: PlanGraph) -> str:
    """`node_add_10 (Add): not supported`; TensorRT 8.6 tells the node's index alone."""
    name, operator = "", ""
    if 0 <= fault.node() < len(graph.nodes):
        name, operator = graph.nodes[fault.node()]
    return f"{name or 'graph'} ({operator or 'no node'}): {' '.join(fault.desc().split())}"


def _require_contract(trt: Any, network: Any, path: Path, contract: Contract) -> None:
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    outputs = [network.get_output(index) for index in range(network.num_outputs)]
    types = {trt.DataType.FLOAT: np.float32, trt.DataType.HALF: np.float16}
    expected = specs_of(contract, FLOATS[contract.precision])
    for tensors, specs in zip((inputs, outputs), expected, strict=True):
        found = {t.name: (types.get(t.dtype, str(t.dtype)), tuple(t.shape)) for t in tensors}
        require_graph(path, found, specs)
