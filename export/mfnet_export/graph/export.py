"""Export of a network to one ONNX file that holds its contract.

The graph is FP32 in opset 17 with the tensors `image`, `dsm` and `logits`; only the batch is
dynamic. The file contains no local paths.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import onnx_ir as ir
import torch

from mfnet.model.network import MFNet
from mfnet_export.files import ExportError, disk_errors, require_valid, staged_output
from mfnet_export.graph.passes import OPSET, REMEDY, clean, lower, require_static
from mfnet_runtime.contract import METADATA_KEY, Contract
from mfnet_runtime.version import installed_version

PACKAGES = ("mfnet", "torch", "onnx", "onnxscript")  # recorded: they determine the graph
TORCH_OPSET = 18  # the opset that torch's exporter produces without conversion
IR_VERSION = 8  # that of opset 17; runtimes refuse files with a newer one than they know
BATCH = "N"
# Bytes of weights above which they go beside the file. Protobuf is limited to 2 GiB, of which
# 64 MiB are left for the graph.
EXTERNAL_ABOVE = 2**31 - 2**26


def onnx_from_network(network: MFNet, contract: Contract, path: Path) -> Contract:
    """Write a network as an ONNX file that onnx's checker accepts.

    Weights up to 2 GiB are stored in the file, larger ones in `<name>.data` beside it. The file
    is replaced only on success.

    Args:
        network: Merged or not, float32, in eval mode.
        contract: The contract of the network; package versions are added to its provenance.
        path: The file to write.

    Returns:
        The contract as written.

    Raises:
        ValueError: The network is in training mode or not float32, or the contract does not fit.
        ExportError: torch cannot export the network, or the graph is dynamic or invalid.
        UsageError: The folder does not exist.
        ResourceError: The folder cannot be written, or the disk is full.
    """
    weight = next(network.parameters())
    if network.training or weight.dtype is not torch.float32:
        raise ValueError("expected a float32 network in eval mode")
    if contract.window != network.config.window or len(contract.classes) != network.config.classes:
        raise ValueError("the contract belongs to another network")
    versions = {name: installed_version(name) for name in PACKAGES}
    contract = contract.with_provenance(**versions, opset=OPSET)
    model = _trace(network, weight.device)
    clean(model)
    require_static(model, BATCH)
    lower(model)
    model.ir_version = IR_VERSION
    model.producer_name, model.producer_version = "mfnet", installed_version("mfnet")
    model.graph.name = "mfnet"
    model.metadata_props[METADATA_KEY] = contract.to_json()
    with staged_output(path) as partial:
        save(model, partial)
        require_valid(partial)
    return contract


def _trace(network: MFNet, device: torch.device) -> ir.Model:
    """Run torch's exporter, which also folds constants."""
    side, batch = network.config.window, torch.export.Dim(BATCH)
    # Two windows, because torch treats a sample batch of one as a constant.
    image, dsm = (torch.zeros(2, bands, side, side, device=device) for bands in (3, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside torch, and a note on the name N
        try:
            program = torch.onnx.export(
                network,
                (image, dsm),
                dynamo=True,
                input_names=["image", "dsm"],
                output_names=["logits"],
                dynamic_shapes={"image": {0: batch}, "dsm": {0: batch}},
                opset_version=TORCH_OPSET,
                optimize=True,
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as fault:
            reason = str(fault).strip().splitlines()[0][:200]
            raise ExportError(
                f"PyTorch {torch.__version__} cannot export this network ({reason}); {REMEDY}"
            ) from fault
    if program is None:
        raise ExportError(f"PyTorch {torch.__version__} exported nothing")
    return program.model


def save(model: ir.Model, path: Path) -> None:
    """Write a graph with its weights, which go beside the file if they exceed 2 GiB."""
    weights = (value.const_value for value in model.graph.initializers.values())
    size = sum(weight.nbytes for weight in weights if weight is not None)
    beside = f"{path.name}.data" if size > EXTERNAL_ABOVE else None
    if beside is None:
        ir.external_data.load_to_model(model)  # the weights may still be in another file
    with disk_errors(path):
        ir.save(model, path, external_data=beside)
