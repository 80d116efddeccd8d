"""What is in a built plan: its layers, and how many attentions run in a fused kernel."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from mfnet_export.errors import ExportError
from mfnet_runtime.backends.tensorrt.engine import recording_logger
from mfnet_runtime.errors import NO_MEMORY

# How TensorRT names its fused attention kernels: _gemm_mha_v2_..., kgen_mha, fmha_v2_...
FUSED = re.compile(r"(^|_)f?mha(_|$)|fused_multihead_attention", re.IGNORECASE)
OPAQUE = "ForeignNode"  # in TensorRT 8.6 the whole encoder is one such layer
IDLE = ("signal", "wait", "shape_call")  # layer types that compute nothing


@dataclass(frozen=True)
class EngineFacts:
    """Counts; None where TensorRT does not list the layers."""

    layers: int | None
    fused_attentions: int | None


def facts_of_engine(trt: Any, plan: bytes) -> EngineFacts:
    """Load a plan as a runtime would, and look inside.

    Raises:
        ExportError: it does not load.
    """
    logger = recording_logger(trt)
    runtime = trt.Runtime(logger)
    runtime.engine_host_code_allowed = True  # version-compatible plans hold some; ours is trusted
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None and NO_MEMORY.search(logger.reason):
        return EngineFacts(None, None)  # the builder's memory may not be free yet
    if engine is None:
        raise ExportError(f"the plan just built does not load ({logger.reason})")
    inspector = engine.create_engine_inspector()
    text = inspector and inspector.get_engine_information(trt.LayerInformationFormat.JSON)
    return facts_from_text(text or "")


def facts_from_text(text: str) -> EngineFacts:
    """Counts from the engine inspector's JSON.

    Args:
        text: A layer is an object, or its name alone where a plan was built with less detail.
    """
    try:
        layers = list(json.loads(text)["Layers"])
    except (ValueError, KeyError, TypeError):
        return EngineFacts(None, None)
    entries = [layer if isinstance(layer, dict) else {"Name": str(layer)} for layer in layers]
    working = [entry for entry in entries if entry.get("LayerType") not in IDLE]
    if any(OPAQUE in entry.get("Name", "") for entry in working):
        return EngineFacts(len(working), None)
    # Metadata is left out: it repeats the names that the graph's own nodes have.
    fused = sum(
        bool(FUSED.search(entry.get("Name", "")) or FUSED.search(entry.get("TacticName", "")))
        for entry in working
    )
    return EngineFacts(len(working), fused)
