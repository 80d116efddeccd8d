"""ONNX file to TensorRT plan."""

from __future__ import annotations

import json
import logging
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mfnet_export.files import ExportError, staged_output
from mfnet_export.report import labelled, size_text
from mfnet_export.tensorrt.config import config_from_options, timing_cache
from mfnet_export.tensorrt.machine import PlanMachine, plan_machine
from mfnet_export.tensorrt.network import FLOATS, network_from_onnx
from mfnet_export.tensorrt.options import PlanOptions
from mfnet_export.tensorrt.progress import Watch, monitor_build, run_watched
from mfnet_runtime.backends.onnx_file import contract_in_onnx
from mfnet_runtime.backends.tensorrt.engine import recording_logger
from mfnet_runtime.backends.tensorrt.plan_file import PLAN_SUFFIX, PlanFacts, sidecar_of
from mfnet_runtime.contract import Contract
from mfnet_runtime.errors import NO_MEMORY, ModelError, ResourceError, UsageError
from mfnet_runtime.files import sha256_from_file

logger = logging.getLogger(__name__)

# Names of TensorRT's fused attention kernels: _gemm_mha_v2_..., kgen_mha, fmha_v2_...
FUSED = re.compile(r"(^|_)f?mha(_|$)|fused_multihead_attention", re.IGNORECASE)
OPAQUE = "ForeignNode"  # TensorRT 8.6 hides the whole encoder in one such layer
IDLE = ("signal", "wait", "shape_call")  # types of layers that compute nothing


@dataclass(frozen=True)
class PlanReport:
    """A plan that was built."""

    output: Path
    size: int  # bytes
    facts: PlanFacts
    attentions: int  # in the graph, with a head size that TensorRT has fused kernels for
    warnings: tuple[str, ...]  # the last warnings of TensorRT
    seconds: float

    @property
    def caution(self) -> str:
        """A warning if attentions run unfused, and so slower than they could; else empty."""
        fused = self.facts.fused_attentions
        if self.facts.contract.precision != "fp16" or fused is None or fused >= self.attentions:
            return ""
        return (
            f"{fused} fused attention kernels for {self.attentions} attentions: the others run "
            "unfused and slower; another version of TensorRT may fuse them"
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {
            "output": str(self.output),
            "bytes": self.size,
            **self.facts.to_dict(),
            "attentions": self.attentions,
            "caution": self.caution,
            "warnings": list(self.warnings),
            "seconds": round(self.seconds, 2),
        }

    def lines(self) -> list[str]:
        """Return the report as text that ends in the next command."""
        facts, profile = self.facts, self.facts.profile
        major, minor = facts.compute_capability
        fused = "?" if facts.fused_attentions is None else facts.fused_attentions
        layers = "?" if facts.layers is None else facts.layers
        rows = [
            f"{self.output}  {size_text(self.size)}, in {self.seconds:.0f} s",
            f"TensorRT {facts.tensorrt}, {facts.gpu} (compute capability {major}.{minor}), "
            f"{facts.contract.precision}",
            f"batches of {profile.smallest} to {profile.largest}, best at {profile.best}",
            f"{layers} layers, {fused} fused attention kernels for {self.attentions} attentions",
            *([f"warning: {self.caution}"] if self.caution else []),
        ]
        return [*labelled("plan", rows), f"next: mfnet-run {self.output} SCENES -o OUT"]


def plan_from_onnx(source: Path, target: Path, options: PlanOptions) -> PlanReport:
    """Build the plan of an ONNX file and write it with its facts beside it.

    Both files are replaced only on success.

    Args:
        source: FP16 or FP32 ONNX file with a contract.
        target: File to write, with the suffix `.plan`.
        options: How to build it.

    Raises:
        UsageError: A file or folder is missing, or TensorRT or the GPU does not support an option.
        NoBuilderError: This machine has no TensorRT or no GPU.
        ModelError: The file has no contract, or one that plans do not support.
        ExportError: TensorRT cannot read or build the file.
        ResourceError: The GPU's memory or the disk is full, or the GPU failed.
    """
    started = time.perf_counter()
    contract = _contract_from_source(source, target)
    with plan_machine() as machine, staged_output(target) as partial:
        logger.info("building with %s, which takes minutes", machine.text)
        plan, attentions, warnings = _build(machine, source, contract, options)
        layers, fused = _inspect(machine.trt, plan)
        partial.write_bytes(plan)
        facts = PlanFacts(
            contract=contract,
            plan_sha256=sha256_from_file(partial),
            onnx_sha256=sha256_from_file(source),
            tensorrt=machine.trt.__version__,
            cuda=machine.device.cuda,
            driver=machine.device.driver,
            gpu=machine.device.name,
            compute_capability=machine.device.compute_capability,
            profile=options.batches,
            version_compatible=options.version_compatible,
            hardware=options.hardware_compatible,
            weights=not options.strip_weights,
            layers=layers,
            fused_attentions=fused,
        )
        sidecar_of(partial).write_text(facts.to_json(), encoding="utf-8")
    seconds = time.perf_counter() - started
    return PlanReport(target, len(plan), facts, attentions, warnings, seconds)


def count_layers(text: str) -> tuple[int | None, int | None]:
    """Count the layers and the fused attentions in the JSON of TensorRT's engine inspector.

    Args:
        text: Each layer is an object, or just its name if the plan was built with less detail.

    Returns:
        Both counts, None where TensorRT does not list them.
    """
    try:
        layers = list(json.loads(text)["Layers"])
    except (ValueError, KeyError, TypeError):
        return None, None
    entries = [layer if isinstance(layer, dict) else {"Name": str(layer)} for layer in layers]
    working = [entry for entry in entries if entry.get("LayerType") not in IDLE]
    if any(OPAQUE in entry.get("Name", "") for entry in working):
        return len(working), None
    # Other fields, such as the metadata, repeat the names of the graph's own nodes.
    names = [(entry.get("Name", ""), entry.get("TacticName", "")) for entry in working]
    return len(working), sum(any(FUSED.search(name) for name in pair) for pair in names)


def _contract_from_source(source: Path, target: Path) -> Contract:
    if not source.is_file():
        raise UsageError(f"{source}: no such file; give an ONNX file with --onnx")
    if target.suffix != PLAN_SUFFIX:
        raise UsageError(f"{target}: expected a name ending in {PLAN_SUFFIX}")
    contract = contract_in_onnx(source)
    if contract.precision not in FLOATS:
        raise ModelError(
            f"{source}: is {contract.precision.upper()}, but plans are built from FP16 or FP32 "
            "files; export one with mfnet-export --fp16"
        )
    return contract


def _build(
    machine: PlanMachine, source: Path, contract: Contract, options: PlanOptions
) -> tuple[bytes, int, tuple[str, ...]]:
    """Return the plan, the number of attentions in the graph and TensorRT's warnings."""
    trt, watch = machine.trt, Watch()
    log = recording_logger(trt)
    builder = trt.Builder(log)
    portable = options.version_compatible or options.hardware_compatible != "none"
    parsed = network_from_onnx(trt, builder, log, source, contract, native_only=portable)
    config = config_from_options(machine, builder, parsed, contract, options)
    monitor_build(trt, config, watch)

    def build() -> Any:
        with machine.device.current():  # the GPU's context belongs to a thread
            return builder.build_serialized_network(parsed.network, config)

    with timing_cache(config, options.timing_cache):
        memory = run_watched(build, watch)
        if memory is None:
            raise _build_error(machine, source, log.reason)
    return bytes(memory), parsed.graph.attentions, tuple(log.warnings)


def _build_error(machine: PlanMachine, source: Path, reason: str) -> Exception:
    """Return the reason for a failed build.

    Raises:
        DeviceLostError: The GPU failed, which TensorRT does not tell from other errors.
    """
    machine.device.memory()
    if NO_MEMORY.search(reason):
        return ResourceError(
            f"{source}: {machine.text} ran out of memory while building ({reason}); use smaller "
            "--batches or --workspace, or end other programs on the GPU"
        )
    return ExportError(
        f"{source}: {machine.text} cannot build it ({reason}); "
        "try another --opt-level, or another version of TensorRT"
    )


def _inspect(trt: Any, plan: bytes) -> tuple[int | None, int | None]:
    """Load a plan as a runtime would, and count its layers and fused attentions.

    Raises:
        ExportError: The plan does not load.
    """
    log = recording_logger(trt)
    runtime = trt.Runtime(log)
    runtime.engine_host_code_allowed = True  # version-compatible plans contain trusted code
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None and NO_MEMORY.search(log.reason):
        return None, None  # the builder's memory may not be free yet
    if engine is None:
        raise ExportError(f"the plan just built does not load ({log.reason})")
    inspector = engine.create_engine_inspector()
    text = inspector and inspector.get_engine_information(trt.LayerInformationFormat.JSON)
    return count_layers(text or "")
