"""Counts of the layers in a built engine, from what TensorRT says about them."""

from __future__ import annotations

import json
import re

from mfnet_runtime.backends.tensorrt.plan_file import LayerCounts

# Names of TensorRT's fused attention kernels: _gemm_mha_v2_..., kgen_mha, fmha_v2_...
FUSED = re.compile(r"(^|_)f?mha(_|$)|fused_multihead_attention", re.IGNORECASE)
OPAQUE = "ForeignNode"  # TensorRT 8.6 hides the whole encoder in one such layer
IDLE = ("signal", "wait", "shape_call")  # types of layers that compute nothing
# A line of the build log of TensorRT for RTX; tensors are listed as `{ Name: x, ... }`.
LINE = re.compile(
    r"Name: (?P<name>.*?), LayerType: (?P<kind>.*?), Inputs: (?P<inputs>.*?), Constants: .*?, "
    r"Outputs: (?P<outputs>.*?), TacticName: (?P<tactic>.*?), StreamId: "
)
TYPE = re.compile(r"Datatype: (\w+)")


def counts_from_inspector(text: str) -> LayerCounts:
    """Count layers and fused attentions in the JSON of TensorRT's engine inspector.

    Args:
        text: Each layer is an object, or just its name if the plan was built with less detail.

    Returns:
        None for what TensorRT does not list.
    """
    try:
        layers = list(json.loads(text)["Layers"])
    except (ValueError, KeyError, TypeError):
        return LayerCounts()
    entries = [layer if isinstance(layer, dict) else {"Name": str(layer)} for layer in layers]
    working = [entry for entry in entries if entry.get("LayerType") not in IDLE]
    if any(OPAQUE in entry.get("Name", "") for entry in working):
        return LayerCounts(len(working))
    # Other fields, such as the metadata, repeat the names of the graph's own nodes.
    names = [(entry.get("Name", ""), entry.get("TacticName", "")) for entry in working]
    return LayerCounts(len(working), sum(map(_is_fused, names)))


def counts_from_log(text: str) -> LayerCounts:
    """Count layers, fused attentions, INT8 layers and FP32 tensors in the log of a build.

    Args:
        text: The message of TensorRT for RTX that lists a new engine's layers.

    Returns:
        None for all if the message has no layers.
    """
    found = [match for match in map(LINE.match, text.splitlines()) if match]
    working = [match for match in found if match["kind"] not in IDLE]
    if not working:
        return LayerCounts()
    return LayerCounts(
        layers=len(working),
        fused_attentions=sum(_is_fused((match["name"], match["tactic"])) for match in working),
        int8_layers=sum(
            match["kind"] == "gemm" and "Int8" in TYPE.findall(match["inputs"]) for match in working
        ),
        fp32_tensors=sum(TYPE.findall(match["outputs"]).count("Float") for match in working),
    )


def _is_fused(names: tuple[str, str]) -> bool:
    return any(FUSED.search(name) for name in names)
