"""A network written as one ONNX file that carries its contract. Knows no checkpoints.

FP32, opset 17, names `image`, `dsm`, `logits`, only the batch dynamic; the file holds no local
path.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import onnx
import onnx_ir as ir
import torch

from mfnet.model.network import MFNet
from mfnet_export.errors import ExportError
from mfnet_export.files import staged, writing
from mfnet_export.graph.lower import OPSET, lower
from mfnet_export.graph.passes import clean, require_static
from mfnet_runtime.contract import METADATA_KEY, Contract
from mfnet_runtime.version import installed_version

PACKAGES = ("mfnet", "torch", "onnx", "onnxscript")  # whose versions decide the graph
TORCH_OPSET = 18  # what torch's exporter writes by itself
IR_VERSION = 8  # of the time of opset 17; runtimes in the field refuse newer ones than they know
BATCH = "N"
# Bytes of weights above which they go beside the file: protobuf ends at 2 GiB, and 64 MiB are left
# for the graph.
EXTERNAL_ABOVE = 2**31 - 2**26


def onnx_from_network(network: MFNet, contract: Contract, path: Path) -> Contract:
    """Write the network as ONNX, checked by onnx's checker, in whole or not at all.

    Weights go into the file; above 2 GiB they go beside it, into `<name>.data`.

    Args:
        network: Merged or not, float32, in eval mode.
        contract: What it was trained for; the exporter adds its versions to the provenance.
        path: Replaced if it exists.

    Returns:
        The contract as written.

    Raises:
        ValueError: the network is in training mode or not float32, or the contract is another's.
        ExportError: torch cannot export it, or the graph is dynamic or invalid.
        UsageError: no such folder.
        ResourceError: the folder cannot be written, or the disk is full.
    """
    weight = next(network.parameters())
    if network.training or weight.dtype is not torch.float32:
        raise ValueError("give a float32 network in eval mode")
    if contract.window != network.config.window or len(contract.classes) != network.config.classes:
        raise ValueError("this contract is of another network")
    contract = contract.with_provenance(
        **{name: installed_version(name) for name in PACKAGES}, opset=OPSET
    )
    model = _ir_from_network(network, weight.device)
    clean(model)
    require_static(model, BATCH)
    lower(model)
    model.ir_version = IR_VERSION
    model.producer_name, model.producer_version = "mfnet", installed_version("mfnet")
    model.graph.name = "mfnet"
    model.metadata_props[METADATA_KEY] = contract.to_json()
    with staged(path) as partial:
        save(model, partial)
        require_valid(partial)
    return contract


def _ir_from_network(network: MFNet, device: torch.device) -> ir.Model:
    """What torch's exporter makes of the network, constant-folded."""
    side, batch = network.config.window, torch.export.Dim(BATCH)
    # Two windows: torch takes a sample batch of one for a constant.
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
            raise ExportError(
                f"PyTorch {torch.__version__} cannot export this network "
                f"({str(fault).strip().splitlines()[0][:200]}); use the versions that "
                "mfnet[export] names"
            ) from fault
    if program is None:
        raise ExportError(f"PyTorch {torch.__version__} exported nothing")
    return program.model


def save(model: ir.Model, path: Path) -> None:
    """Write a graph; weights above 2 GiB go beside it, none stay in the file they came from."""
    weights = (value.const_value for value in model.graph.initializers.values())
    size = sum(weight.nbytes for weight in weights if weight is not None)
    beside = f"{path.name}.data" if size > EXTERNAL_ABOVE else None
    if beside is None:
        ir.external_data.load_to_model(model)
    with writing(path):
        ir.save(model, path, external_data=beside)


def require_valid(path: Path, kind: str = "exported") -> None:
    """Refuse a file that onnx's checker finds fault with.

    Args:
        path: Weights beside it are checked with it.
        kind: What to call the graph in an error.

    Raises:
        ExportError: the graph is not valid ONNX.
    """
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as fault:
        reason = " ".join(str(fault).split())[:200]
        raise ExportError(f"{path.name}: the {kind} graph is not valid ONNX ({reason})") from fault
