"""Facts of a checkpoint, an official checkpoint, an ONNX file or a plan, and their text.

The first bytes of a file decide what it is, except for a plan, which is known by its suffix. No
model is run.
"""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import click

from mfnet_export.report import size_text
from mfnet_runtime.backends.onnx_file import contract_in_onnx
from mfnet_runtime.backends.tensorrt.plan_file import PLAN_SUFFIX, facts_of_plan
from mfnet_runtime.contract import METADATA_KEY, Contract
from mfnet_runtime.errors import ModelError, UsageError, missing_package, one_line
from mfnet_runtime.files import sha256_from_file

TOP_OPERATORS = 8
_TORCH_STARTS = (b"PK\x03\x04", b"\x80")  # zip files, and pickles of old versions
_ONNX_START = b"\x08"  # protobuf field 1, ir_version
_ON_ONE_LINE = ("activations", "operators", "opset", "peaks")  # facts that are numbers by name
_DSM_RULES = {
    "scene_minmax": "scene_minmax: lowest to highest height of each scene",
    "scene_percentile": "scene_percentile: {low:g} to {high:g} % of each scene's heights",
    "range": "range: {low:g} to {high:g} m in every scene",
}

Facts = dict[str, Any]  # plain JSON types
Rows = list[tuple[str, str]]  # key and text


def inspect_file(path: Path) -> Facts:
    """Return the facts of a file by section; `contract` is the contract's own JSON.

    Raises:
        UsageError: There is no such file.
        ModelError: The file is damaged, or of an unknown kind.
    """
    if not path.is_file():
        raise UsageError(f"{path}: no such file")
    size, sha256 = path.stat().st_size, sha256_from_file(path)
    if path.suffix.lower() == PLAN_SUFFIX:
        kind, facts = "TensorRT plan", _facts_from_plan(path, sha256)
    else:
        with path.open("rb") as file:
            start = file.read(16)
        if start.startswith(_TORCH_STARTS) or path.suffix.lower() == ".safetensors":
            kind, facts = _facts_from_checkpoint(path)
        elif start.startswith(_ONNX_START):
            kind, facts = "ONNX", _facts_from_onnx(path)
        else:
            raise ModelError(
                f"{path}: starts with {start!r}, which is no known format; expected a checkpoint "
                "(best.pt, an official .pth), an ONNX file or a TensorRT plan"
            )
    file_facts = {"name": path.name, "kind": kind, "bytes": size, "sha256": sha256}
    return {"file": file_facts, **facts}


def lines_from_facts(facts: Facts) -> list[str]:
    """Return the facts as text: one block per section, keys aligned."""
    special = ("file", "contract", "note")
    file, contract, note = (facts.get(name) for name in special)
    blocks = {"file": _file_rows(file)} if file else {}
    blocks |= {name: _flat_rows(part) for name, part in facts.items() if name not in special}
    if contract:
        blocks["contract"] = _contract_rows(contract)
        blocks["provenance"] = _flat_rows(contract["provenance"])
        blocks["classes"] = _class_rows(contract["classes"])
    lines: list[str] = []
    for name, rows in blocks.items():
        if rows:
            width = max(len(key) for key, _ in rows)
            lines += [name, *(f"  {key:<{width}}  {text}" for key, text in rows), ""]
    return [*lines, f"note: {note}"] if note else lines[:-1]


def _facts_from_checkpoint(path: Path) -> tuple[str, Facts]:
    import torch

    from mfnet.checkpoints.checkpoint import is_from_official, load_checkpoint
    from mfnet.model.network import MFNet

    checkpoint = load_checkpoint(path)
    with torch.device("meta"):  # shapes only
        network = MFNet(checkpoint.config)

    def count(*modules: Any) -> int:
        return sum(p.numel() for module in modules for p in module.parameters())

    # Official files have relative-position tables that are zero.
    tables = [table for name, table in checkpoint.weights.items() if ".rel_pos_" in name]
    position = "real" if any(bool(table.any()) for table in tables) else "zero"
    facts: Facts = {
        "network": {**checkpoint.config.to_dict(), "relative_position": position},
        "parameters": {
            "sam_encoder": count(network.encoder.sam),
            "tuning": count(network.encoder.tuning),
            "fusion_and_decoder": count(network.fusion, network.decoder),
        },
        "contract": checkpoint.contract.to_dict(),
        "training": checkpoint.training,
        "metrics": checkpoint.metrics,
    }
    if not is_from_official(checkpoint.contract):
        return "mfnet checkpoint", facts
    facts["note"] = "an official file states neither window, bands nor classes: these are guessed"
    return "official MFNet weights", facts


def _facts_from_onnx(path: Path) -> Facts:
    try:
        import onnx
    except ModuleNotFoundError as fault:
        note = f"the graph is not shown, which {missing_package(fault.name)}"
        return {"contract": contract_in_onnx(path).to_dict(), "note": note}
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as fault:  # protobuf's errors have no common base class
        reason = " ".join(str(fault).split())[:160]
        raise ModelError(
            f"{path}: damaged, or not ONNX ({reason}); export it again with mfnet-export"
        ) from fault
    graph = model.graph
    if not graph.node:
        raise ModelError(f"{path}: ONNX without a graph; export it again with mfnet-export")
    beside = {
        entry.value
        for tensor in graph.initializer
        for entry in tensor.external_data
        if entry.key == "location"
    }
    indices = (onnx.TensorProto.INT64, onnx.TensorProto.INT32, onnx.TensorProto.BOOL)
    weights = (tensor.dims for tensor in graph.initializer if tensor.data_type not in indices)
    constants = {tensor.name for tensor in graph.initializer}
    values = (*graph.value_info, *graph.input, *graph.output)
    kinds = Counter(_number_type(value) for value in values if value.name not in constants)
    facts: Facts = {
        "graph": {
            "inputs": [_value_text(value) for value in graph.input],
            "outputs": [_value_text(value) for value in graph.output],
            "opset": {entry.domain or "onnx": entry.version for entry in model.opset_import},
            "ir_version": model.ir_version,
            "nodes": len(graph.node),
            "operators": dict(Counter(n.op_type for n in graph.node).most_common(TOP_OPERATORS)),
            "activations": {kind: n for kind, n in kinds.most_common() if "float" in kind},
            "parameters": sum(math.prod(sizes) for sizes in weights),
            "weights": ", ".join(sorted(beside)) or "inside the file",
        }
    }
    texts = [entry.value for entry in model.metadata_props if entry.key == METADATA_KEY]
    if not texts:
        note = "the file has no mfnet contract, so mfnet-run refuses it; export with mfnet-export"
        return {**facts, "note": note}
    try:
        return {**facts, "contract": Contract.from_json(texts[0]).to_dict()}
    except ModelError as fault:
        raise ModelError(f"{path}: {fault}; export it again with mfnet-export") from fault


def _number_type(value: Any) -> str:
    """Return float32, int64, ..."""
    import onnx

    return str(onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type))


def _value_text(value: Any) -> str:
    """Format a value, for example `image float32 (N, 3, 256, 256)`."""
    sizes = (d.dim_param or str(d.dim_value) for d in value.type.tensor_type.shape.dim)
    return f"{value.name} {_number_type(value)} ({', '.join(sizes)})"


def _facts_from_plan(path: Path, sha256: str) -> Facts:
    plan = facts_of_plan(path)
    facts = plan.to_dict()
    contract = facts.pop("contract")
    for known in ("format", "plan_sha256", "counts", "attentions"):
        del facts[known]
    facts = {name: value for name, value in facts.items() if value is not None}
    facts["layers"] = plan.counts_text()
    if plan.plan_sha256 == sha256:
        return {"plan": facts, "contract": contract}
    note = (
        f"these facts belong to another plan (sha256 {plan.plan_sha256}), so mfnet-run refuses "
        "it; copy the plan and the .json file beside it again, or build the plan again"
    )
    return {"plan": facts, "contract": contract, "note": note}


def _file_rows(file: Facts) -> Rows:
    size = f"{size_text(file['bytes'])} ({_text(file['bytes'])} bytes)"
    return [
        ("name", file["name"]),
        ("kind", file["kind"]),
        ("size", size),
        ("sha256", file["sha256"]),
    ]


def _contract_rows(contract: Facts) -> Rows:
    image, dsm = contract["image"], contract["dsm"]
    size = contract["pixel_size"]
    return [
        ("window", f"{contract['window']} px"),
        ("image", f"{', '.join(image['bands'])}; value / {image['full_scale']:g}"),
        ("DSM", _DSM_RULES.get(dsm["rule"], dsm["rule"]).format(**dsm)),
        ("precision", contract["precision"]),
        ("pixel size", "unknown" if size is None else f"{size:g} m"),
    ]


def _class_rows(classes: list[Facts]) -> Rows:
    """Return index, a swatch on a colour terminal, the colour in hexadecimal, and the name."""
    rows = []
    for index, entry in enumerate(classes):
        red, green, blue = entry["colour"]
        swatch = click.style("  ", bg=(red, green, blue))
        rows.append((f"{index:>3}", f"{swatch} #{red:02x}{green:02x}{blue:02x}  {entry['name']}"))
    return rows


def _flat_rows(section: Facts, prefix: str = "") -> Rows:
    """Return the rows of a section; nested facts get dotted keys."""
    rows: Rows = []
    for key, value in section.items():
        if key in _ON_ONE_LINE and isinstance(value, dict):
            text = ", ".join(f"{name} {_text(count)}" for name, count in value.items())
            rows.append((f"{prefix}{key}", text))
        elif isinstance(value, dict):
            rows += _flat_rows(value, f"{prefix}{key}.")
        else:
            rows.append((one_line(f"{prefix}{key}").replace("_", " "), _text(value)))
    return rows


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(_text(part) for part in value) or "none"
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    if isinstance(value, float):
        return f"{value:.6g}"
    return f"{value:,}".replace(",", " ") if isinstance(value, int) else one_line(str(value))
