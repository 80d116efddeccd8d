"""A folder for a model repository of Hugging Face: model card, weights, ONNX file and contract."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
from safetensors.numpy import save_file

from mfnet_export.interfaces.graph import load_graph
from mfnet_export.interfaces.options import InterfaceOptions
from mfnet_export.interfaces.source import Source
from mfnet_runtime.contract import METADATA_KEY, Contract

DSM_RULES = {
    "scene_minmax": "the lowest and highest height of the scene become 0 and 1",
    "scene_percentile": "percentiles {low:g} and {high:g} of the scene's heights become 0 and 1",
    "range": "{low:g} m and {high:g} m become 0 and 1",
}
METRICS = {"mean_iou": "mIoU", "mean_f1": "mean F1", "oa": "overall accuracy"}


def write(source: Source, folder: Path, options: InterfaceOptions) -> None:
    """Write `README.md`, `model.safetensors`, `contract.json` and the ONNX file.

    Raises:
        UsageError: The source is a plan.
    """
    source.require_onnx("huggingface")
    source.copy_to(folder / source.path.name)
    contract, beside = source.contract, str(source.path.parent)
    weights = {
        tensor.name: onnx.numpy_helper.to_array(tensor, beside)
        for tensor in load_graph(source).graph.initializer
    }
    save_file(weights, folder / "model.safetensors", {METADATA_KEY: contract.to_json()})
    text = json.dumps(contract.to_dict(), indent=2, ensure_ascii=False)
    (folder / "contract.json").write_text(text + "\n", "utf-8")
    (folder / "README.md").write_text(_card(contract, source.path.name), "utf-8")


def next_steps(source: Source, folder: Path) -> list[str]:
    """Return what is left to do by hand."""
    return [
        f"state the licence of the weights and the data in {folder / 'README.md'}",
        f"hf upload USER/NAME {folder}",
    ]


def _card(contract: Contract, name: str) -> str:
    # JSON is YAML, so names need no other quoting.
    head = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in _facts(contract)]
    image, dsm, side = contract.image, contract.dsm, contract.window
    rule = DSM_RULES[dsm.name].format(low=dsm.low, high=dsm.high)
    size = "unknown" if contract.pixel_size is None else f"{contract.pixel_size:g} m"
    rows = zip(contract.classes.names, contract.classes.colours, strict=True)
    classes = [
        f"| {index} | {_cell(label)} | #{'{:02x}{:02x}{:02x}'.format(*colour)} |"
        for index, (label, colour) in enumerate(rows)
    ]
    scores = [f"* {METRICS[key]}: {value:.4f}" for key, value in _scores(contract).items()]
    lines = [
        "---",
        *head,
        "---",
        "# MFNet",
        "",
        "Semantic segmentation of aerial images with their digital surface model (DSM), by MFNet "
        "([arXiv 2410.11160](https://arxiv.org/abs/2410.11160)), exported with mfnet.",
        "",
        "## Input and output",
        "",
        f"* `image` (N, 3, {side}, {side}): {', '.join(image.bands)}; pixel values divided by "
        f"{image.full_scale:g}",
        f"* `dsm` (N, 1, {side}, {side}): heights; {rule}, clipped",
        f"* `logits` (N, {len(contract.classes)}, {side}, {side})",
        f"* precision {contract.precision}; pixel size of the training images: {size}",
        "",
        "| class | name | colour |",
        "|---|---|---|",
        *classes,
        "",
        *(["## Validation", "", *scores, ""] if scores else []),
        "## Use",
        "",
        "```shell",
        f"mfnet-run {name} ortho.tif --dsm heights.tif -o maps/",
        "```",
        "",
        "## Files",
        "",
        f"* `{name}`: the network, with its tuning merged, and the contract",
        "* `model.safetensors`: the constants of that graph under their names in it",
        "* `contract.json`: inputs, scaling, classes and origin",
        "",
    ]
    return "\n".join(lines)


def _facts(contract: Contract) -> list[tuple[str, Any]]:
    facts: list[tuple[str, Any]] = [
        ("license", "unknown"),
        ("library_name", "mfnet"),
        ("pipeline_tag", "image-segmentation"),
        ("tags", ["remote-sensing", "aerial", "dsm", "segment-anything", "onnx", "mfnet"]),
    ]
    scores, dataset = _scores(contract), str(contract.provenance.get("dataset", "unknown"))
    if scores:
        result = {
            "task": {"type": "image-segmentation"},
            "dataset": {"name": dataset, "type": dataset},
            "metrics": [
                {"type": key, "name": METRICS[key], "value": value} for key, value in scores.items()
            ],
        }
        facts.append(("model-index", [{"name": "MFNet", "results": [result]}]))
    return facts


def _scores(contract: Contract) -> dict[str, float]:
    """Return the scores of the trainer's validation, if the model states them."""
    found = contract.provenance.get("validation", {})
    return {key: float(found[key]) for key in METRICS if key in found}


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
