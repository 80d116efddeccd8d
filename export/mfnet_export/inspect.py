"""What a file promises, as plain facts: our checkpoint, an official one, ONNX, or a plan.

The first bytes decide what a file is, not its name; only a plan, whose bytes are its engine's
own, is known by its suffix. Runs no model.
"""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

from mfnet_runtime.backends.tensorrt.plan_file import PLAN_SUFFIX, facts_of_plan
from mfnet_runtime.contract import METADATA_KEY, Contract
from mfnet_runtime.errors import ModelError, UsageError
from mfnet_runtime.files import sha256_from_file

TOP_OPERATORS = 8
_TORCH_STARTS = (b"PK\x03\x04", b"\x80")  # zip, and the plain pickles of old
_ONNX_START = b"\x08"  # protobuf field 1, ir_version

Facts = dict[str, Any]  # plain JSON types; sections of facts


def inspected(path: Path) -> Facts:
    """Facts of a file by section; `contract` is the contract's own JSON wherever there is one.

    Raises:
        UsageError: no such file.
        ModelError: damaged, or no kind of file that we know.
    """
    if not path.is_file():
        raise UsageError(f"{path}: no such file")
    size, sha256 = path.stat().st_size, sha256_from_file(path)
    if path.suffix.lower() == PLAN_SUFFIX:
        kind, facts = "TensorRT plan", _facts_from_plan(path, sha256)
    else:
        with path.open("rb") as file:
            start = file.read(16)
        if start.startswith(_TORCH_STARTS):
            kind, facts = _facts_from_checkpoint(path)
        elif start.startswith(_ONNX_START):
            kind, facts = "ONNX", _facts_from_onnx(path)
        else:
            raise ModelError(
                f"{path}: starts with {start!r}, which is none of ours; expected a checkpoint "
                "(best.pt, an official .pth), an ONNX file or a TensorRT plan"
            )
    file_facts = {"name": path.name, "kind": kind, "bytes": size, "sha256": sha256}
    return {"file": file_facts, **facts}


def _facts_from_checkpoint(path: Path) -> tuple[str, Facts]:
    import torch

    from mfnet.checkpoints.checkpoint import load_checkpoint
    from mfnet.model.network import MFNet

    checkpoint = load_checkpoint(path)
    with torch.device("meta"):  # shapes only
        network = MFNet(checkpoint.config)
    official = checkpoint.contract.provenance.get("source") == "official"
    facts: Facts = {
        "network": {**checkpoint.config.to_dict(), "relative_position": _tables(checkpoint)},
        "parameters": {
            "sam_encoder": _count(network.encoder.sam),
            "tuning": _count(network.encoder.tuning),
            "fusion_and_decoder": _count(network.fusion) + _count(network.decoder),
        },
        "contract": checkpoint.contract.to_dict(),
        "training": checkpoint.training,
        "metrics": checkpoint.metrics,
    }
    if official:
        facts["note"] = "an official file states neither window nor class names: these are guessed"
    return "official MFNet weights" if official else "mfnet checkpoint", facts


def _count(module: Any) -> int:
    """Parameters of a torch module."""
    return sum(parameter.numel() for parameter in module.parameters())


def _tables(checkpoint: Any) -> str:
    """Whether the relative-position tables do anything; in official files they do not."""
    tables = [t for name, t in checkpoint.weights.items() if ".rel_pos_" in name]
    return "real" if any(bool(table.any()) for table in tables) else "zero"


def _facts_from_onnx(path: Path) -> Facts:
    import onnx

    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as fault:  # protobuf's errors have no common root of their own
        reason = " ".join(str(fault).split())[:160]
        raise ModelError(
            f"{path}: damaged, or not ONNX ({reason}); export it again with mfnet-export"
        ) from fault
    if not model.graph.node:
        raise ModelError(f"{path}: ONNX without a graph; export it again with mfnet-export")
    operators = Counter(node.op_type for node in model.graph.node)
    beside = {
        entry.value
        for tensor in model.graph.initializer
        for entry in tensor.external_data
        if entry.key == "location"
    }
    facts: Facts = {
        "graph": {
            "inputs": [_value_text(value) for value in model.graph.input],
            "outputs": [_value_text(value) for value in model.graph.output],
            "opset": {entry.domain or "onnx": entry.version for entry in model.opset_import},
            "ir_version": model.ir_version,
            "nodes": len(model.graph.node),
            "operators": dict(operators.most_common(TOP_OPERATORS)),
            "activations": _activations(model),
            "parameters": _parameters(model),
            "weights": ", ".join(sorted(beside)) or "inside the file",
        }
    }
    texts = [entry.value for entry in model.metadata_props if entry.key == METADATA_KEY]
    if texts:
        facts["contract"] = _contract(texts[0], path).to_dict()
    else:
        facts["note"] = "no mfnet contract inside, so mfnet-run refuses it; use mfnet-export"
    return facts


def _parameters(model: Any) -> int:
    """Numbers in the graph's constants, but for shapes, indices and masks."""
    from onnx import TensorProto

    others = (TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL)
    weights = (tensor for tensor in model.graph.initializer if tensor.data_type not in others)
    return sum(math.prod(tensor.dims) for tensor in weights)


def _activations(model: Any) -> dict[str, int]:
    """How many of each floating-point type: an FP16 file may keep some in FP32."""
    constants = {tensor.name for tensor in model.graph.initializer}
    values = (*model.graph.value_info, *model.graph.input, *model.graph.output)
    kinds = Counter(_kind(value) for value in values if value.name not in constants)
    return {kind: count for kind, count in kinds.most_common() if "float" in kind}


def _kind(value: Any) -> str:
    """float32, int64, ..."""
    import onnx

    return str(onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type))


def _value_text(value: Any) -> str:
    """`image float32 (N, 3, 256, 256)`."""
    sizes = (d.dim_param or str(d.dim_value) for d in value.type.tensor_type.shape.dim)
    return f"{value.name} {_kind(value)} ({', '.join(sizes)})"


def _facts_from_plan(path: Path, sha256: str) -> Facts:
    plan = facts_of_plan(path)
    facts = plan.to_dict()
    contract = facts.pop("contract")
    facts["compute_capability"] = "{}.{}".format(*plan.compute_capability)
    for known in ("format", "plan_sha256"):
        del facts[known]
    if plan.plan_sha256 == sha256:
        return {"plan": facts, "contract": contract}
    note = (
        f"these facts are of another plan (sha256 {plan.plan_sha256}), so mfnet-run refuses it; "
        "copy the plan and the .json file beside it again, or build the plan again"
    )
    return {"plan": facts, "contract": contract, "note": note}


def _contract(text: str, path: Path) -> Contract:
    try:
        return Contract.from_json(text)
    except ModelError as fault:
        raise ModelError(f"{path}: {fault}; export it again with mfnet-export") from fault
