"""ONNX file to TensorRT network, checked against its contract.

Where TensorRT supports it the network is strongly typed: every tensor has the type that it has in
the file. TensorRT 8.6 does not support it and, where FP16 is allowed, may compute FP32 nodes in
FP16, so those nodes are constrained one by one. LayerNormalization is not constrained: its sums
are in FP32 by default, whatever its tensors are.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from mfnet_export.files import ExportError
from mfnet_export.tensorrt.machine import PlanMachine
from mfnet_runtime.backends.base import specs_of
from mfnet_runtime.backends.model_checks import require_graph
from mfnet_runtime.contract import Contract

logger = logging.getLogger(__name__)

PLAN_PRECISIONS = ("fp32", "fp16", "int8", "int8+fp16")
# Head sizes that TensorRT has fused attention kernels for; that of the fusion decoder is 8.
FUSED_HEADS = range(16, 257)


@dataclass(frozen=True)
class GraphFacts:
    """Facts of an ONNX graph that TensorRT's parser does not give."""

    nodes: tuple[tuple[str, str], ...]  # name and operator, in the order of the file
    fp32_nodes: frozenset[str]  # names of the nodes that compute in FP32
    attentions: int  # attentions with a head size in FUSED_HEADS


@dataclass(frozen=True)
class ParsedNetwork:
    """A TensorRT network and the graph it was parsed from."""

    network: Any  # INetworkDefinition
    parser: Any  # owns the weights: must live until the plan is built
    graph: GraphFacts


def graph_from_onnx(path: Path) -> GraphFacts:
    """Read the graph of an ONNX file without its weights.

    Args:
        path: A valid file that contains its shapes, as mfnet-export writes it.
    """
    graph = onnx.load(path, load_external_data=False).graph
    types = {value.name: value.type.tensor_type for value in (*graph.value_info, *graph.output)}
    single = {
        node.name
        for node in graph.node
        if node.op_type != "Cast"
        and any(types[n].elem_type == onnx.TensorProto.FLOAT for n in node.output if n in types)
    }
    weights = {name for node in graph.node if node.op_type == "Softmax" for name in node.output}
    read = (node for node in graph.node if node.op_type == "MatMul" and node.input[0] in weights)
    heads = (types[node.output[0]].shape.dim[-1].dim_value for node in read)
    return GraphFacts(
        nodes=tuple((node.name, node.op_type) for node in graph.node),
        fp32_nodes=frozenset(single),
        attentions=sum(head in FUSED_HEADS for head in heads),
    )


def network_from_onnx(
    machine: PlanMachine,
    builder: Any,
    log: Any,
    path: Path,
    contract: Contract,
    native_only: bool,
) -> ParsedNetwork:
    """Parse an ONNX file.

    Args:
        machine: TensorRT.
        builder: Its builder.
        log: A recording logger of the same module.
        path: The file; weights beside it are found.
        contract: The contract in the file.
        native_only: Use no plugins, which plans for other versions or GPUs cannot contain.

    Raises:
        ExportError: TensorRT cannot read the file; every node it rejects is logged.
        ModelError: The inputs or outputs are not those of the contract.
    """
    trt = machine.trt
    network = builder.create_network(1 << int(_creation_flag(trt)))
    parser = trt.OnnxParser(network, log)
    if native_only:
        parser.set_flag(trt.OnnxParserFlag.NATIVE_INSTANCENORM)
    graph = graph_from_onnx(path)
    if not parser.parse_from_file(str(path)):
        faults = [_fault_text(parser.get_error(i), graph) for i in range(parser.num_errors)]
        for fault in faults:
            logger.info(fault)
        raise ExportError(
            f"{path}: {machine.text} cannot read it "
            f"({faults[0] if faults else log.reason}); export it again with mfnet-export"
        )
    _require_contract(trt, network, path, contract)
    return ParsedNetwork(network, parser, graph)


def allow_fp16(trt: Any, config: Any, parsed: ParsedNetwork) -> None:
    """Let a weakly typed network compute in FP16, except for the FP32 nodes of its file.

    The FP32 nodes run in FP32 or the build fails, because FP16 might overflow in them. A strongly
    typed network needs no such settings.

    Raises:
        ExportError: An FP32 node is not among TensorRT's layers.
    """
    if has_strong_types(trt):
        return
    config.set_flag(trt.BuilderFlag.FP16)
    network, left = parsed.network, set(parsed.graph.fp32_nodes)
    if left:
        config.set_flag(trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)
    for index in range(network.num_layers if left else 0):
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


def has_strong_types(trt: Any) -> bool:
    """Return True if networks can have the types of their file: since TensorRT 10."""
    return hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")


def _creation_flag(trt: Any) -> Any:
    """Return the flag to create a network with; since TensorRT 10 the batch is always explicit."""
    flags = trt.NetworkDefinitionCreationFlag
    return flags.STRONGLY_TYPED if has_strong_types(trt) else flags.EXPLICIT_BATCH


def _fault_text(fault: Any, graph: GraphFacts) -> str:
    """Format a parser error, for example `node_add_10 (Add): not supported`.

    The node is looked up by its index, the only thing that TensorRT 8.6 gives.
    """
    name, operator = "", ""
    if 0 <= fault.node() < len(graph.nodes):
        name, operator = graph.nodes[fault.node()]
    return f"{name or 'graph'} ({operator or 'no node'}): {' '.join(fault.desc().split())}"


def _require_contract(trt: Any, network: Any, path: Path, contract: Contract) -> None:
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    outputs = [network.get_output(index) for index in range(network.num_outputs)]
    types = {trt.DataType.FLOAT: np.float32, trt.DataType.HALF: np.float16}
    for tensors, specs in zip((inputs, outputs), specs_of(contract), strict=True):
        found = {t.name: (types.get(t.dtype, str(t.dtype)), tuple(t.shape)) for t in tensors}
        require_graph(path, found, specs)
