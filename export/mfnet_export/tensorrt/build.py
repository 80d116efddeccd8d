"""ONNX file to TensorRT plan."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mfnet_export.files import ExportError, disk_errors, staged_output
from mfnet_export.report import labelled, size_text
from mfnet_export.tensorrt.config import config_from_options, require_buildable, timing_cache
from mfnet_export.tensorrt.layers import counts_from_inspector, counts_from_log
from mfnet_export.tensorrt.machine import PlanMachine, plan_machine
from mfnet_export.tensorrt.network import PLAN_PRECISIONS, network_from_onnx
from mfnet_export.tensorrt.options import PlanOptions
from mfnet_export.tensorrt.progress import Watch, monitor_build, run_watched
from mfnet_runtime.backends.base import HALF
from mfnet_runtime.backends.onnx_file import contract_in_onnx
from mfnet_runtime.backends.tensorrt.engine import recording_logger
from mfnet_runtime.backends.tensorrt.flavour import FLAVOURS, RTX, target_text
from mfnet_runtime.backends.tensorrt.plan_file import (
    PLAN_SUFFIX,
    PORTABLE,
    LayerCounts,
    PlanFacts,
    sidecar_of,
)
from mfnet_runtime.contract import Contract
from mfnet_runtime.errors import NO_MEMORY, ModelError, ResourceError, UsageError
from mfnet_runtime.files import sha256_from_file

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PlanReport:
    """A plan that was built."""

    output: Path
    size: int  # bytes
    facts: PlanFacts
    warnings: tuple[str, ...]  # the last warnings of TensorRT
    seconds: float

    @property
    def caution(self) -> str:
        """A warning if attentions run unfused, and so slower than they could; else empty."""
        fused, attentions = self.facts.counts.fused_attentions, self.facts.attentions or 0
        if fused is None or fused >= attentions:
            return ""
        text = f"{fused} fused attention kernels for {attentions} attentions: the others run slower"
        if self.facts.contract.precision not in HALF:
            return f"{text}; only plans of FP16 files (--fp16) have them fused"
        return f"{text}; another version of TensorRT may fuse them"

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {
            "output": str(self.output),
            "bytes": self.size,
            **self.facts.to_dict(),
            "caution": self.caution,
            "warnings": list(self.warnings),
            "seconds": round(self.seconds, 2),
        }

    def lines(self) -> list[str]:
        """Return the report as text that ends in the next command."""
        facts, profile = self.facts, self.facts.profile
        title = FLAVOURS[facts.flavour].title
        where = f"on {facts.gpu}" if facts.gpu else "without a GPU"
        rows = [
            f"{self.output}  {size_text(self.size)}, in {self.seconds:.0f} s",
            f"for {_targets_text(facts.targets)}; {title} {facts.version}, built {where}, "
            f"{facts.contract.precision}",
            f"batches of {profile.smallest} to {profile.largest}, best at {profile.best}",
            facts.counts_text(),
            *([f"warning: {self.caution}"] if self.caution else []),
        ]
        place = "" if facts.gpu else "  on the machine with the card"
        return [*labelled("plan", rows), f"next: mfnet-run {self.output} SCENES -o OUT{place}"]


def _targets_text(targets: tuple[str, ...]) -> str:
    portable = targets == (PORTABLE,)
    return f"{PORTABLE} (Ampere and later)" if portable else ", ".join(targets)


def plan_from_onnx(source: Path, target: Path, options: PlanOptions) -> PlanReport:
    """Build the plan of an ONNX file and write it with its facts beside it.

    Both files are replaced only on success.

    Args:
        source: ONNX file with a contract; its precision is one of `PLAN_PRECISIONS`.
        target: File to write, with the suffix `.plan`.
        options: How to build it.

    Raises:
        UsageError: A file or folder is missing, or TensorRT or the GPU does not support an option.
        NoBuilderError: This machine has no TensorRT, or no GPU that it needs.
        ModelError: The file has no contract, or one that plans do not support.
        ExportError: TensorRT cannot read or build the file, or fuses none of its FP16 attentions.
        ResourceError: Memory or the disk is full, or the GPU failed.
    """
    started = time.perf_counter()
    contract = _contract_from_source(source, target)
    with plan_machine(options.for_rtx) as machine, staged_output(target) as partial:
        require_buildable(machine, contract, options)
        logger.info("building with %s, which can take minutes", machine.text)
        built = _build(machine, source, contract, options)
        with disk_errors(target):
            partial.write_bytes(built.plan)
        device = machine.device
        facts = PlanFacts(
            contract=contract,
            plan_sha256=sha256_from_file(partial),
            onnx_sha256=sha256_from_file(source),
            flavour=machine.flavour.name,
            version=machine.trt.__version__,
            targets=_targets(machine, options),
            gpu=device.name if device else None,
            cuda=device.cuda if device else None,
            driver=device.driver if device else None,
            profile=options.batches,
            version_compatible=options.version_compatible,
            hardware=options.hardware_compatible,
            weights=not options.strip_weights,
            attentions=built.attentions,
            counts=built.counts,
        )
        with disk_errors(target):
            sidecar_of(partial).write_text(facts.to_json(), encoding="utf-8")
    seconds = time.perf_counter() - started
    return PlanReport(target, len(built.plan), facts, built.warnings, seconds)


def _contract_from_source(source: Path, target: Path) -> Contract:
    if not source.is_file():
        raise UsageError(f"{source}: no such file; give an ONNX file with --onnx")
    if target.suffix != PLAN_SUFFIX:
        raise UsageError(f"{target}: expected a name ending in {PLAN_SUFFIX}")
    contract = contract_in_onnx(source)
    if contract.precision not in PLAN_PRECISIONS:
        raise ModelError(
            f"{source}: is {contract.precision.upper()}, but plans are built from FP16 or FP32 "
            "files; export one with mfnet-export --fp16"
        )
    return contract


@dataclass(frozen=True)
class _Built:
    plan: bytes
    attentions: int  # in the graph, with a head size that can be fused
    counts: LayerCounts
    warnings: tuple[str, ...]


def _build(machine: PlanMachine, source: Path, contract: Contract, options: PlanOptions) -> _Built:
    trt, watch = machine.trt, Watch()
    log = recording_logger(trt)

    def build() -> tuple[Any, int]:
        with machine.current():  # the GPU's context belongs to a thread
            builder = trt.Builder(log)
            portable = options.version_compatible or options.hardware_compatible != "none"
            parsed = network_from_onnx(
                machine, builder, log, source, contract, native_only=portable
            )
            config = config_from_options(machine, builder, parsed, contract, options)
            monitor_build(trt, config, watch)
            with timing_cache(config, options.timing_cache):
                memory = builder.build_serialized_network(parsed.network, config)
                if memory is None:
                    raise _build_error(machine, source, log.reason)
            return memory, parsed.graph.attentions

    # All of it, because TensorRT swallows a KeyboardInterrupt that Python raises in `log`.
    memory, attentions = run_watched(build, watch)
    plan = bytes(memory)
    if machine.flavour is RTX:  # its plans cannot be loaded without a GPU
        counts = counts_from_log(log.layers)
        if contract.precision in HALF and attentions and counts.fused_attentions == 0:
            raise ExportError(
                f"{source}: {machine.text} fused none of its {attentions} attentions; export the "
                "file again with mfnet-export --fp16, or install another version"
            )
    else:
        counts = counts_from_inspector(_inspect(trt, plan))
    return _Built(plan, attentions, counts, tuple(log.warnings))


def _targets(machine: PlanMachine, options: PlanOptions) -> tuple[str, ...]:
    """Return the compute capabilities that run a plan."""
    if machine.device is not None:
        portable = options.hardware_compatible == "ampere_plus"
        return (PORTABLE if portable else target_text(machine.device.compute_capability),)
    return options.cards or (PORTABLE,)


def _build_error(machine: PlanMachine, source: Path, reason: str) -> Exception:
    """Return the reason for a failed build.

    Raises:
        DeviceLostError: The GPU failed, which TensorRT does not tell from other errors.
    """
    if machine.device is not None:
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


def _inspect(trt: Any, plan: bytes) -> str:
    """Load a plan as a runtime would, and return its layers as JSON; empty without memory for it.

    Raises:
        ExportError: The plan does not load.
    """
    log = recording_logger(trt)
    runtime = trt.Runtime(log)
    runtime.engine_host_code_allowed = True  # version-compatible plans contain trusted code
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None and NO_MEMORY.search(log.reason):
        return ""  # the builder's memory may not be free yet
    if engine is None:
        raise ExportError(f"the plan just built does not load ({log.reason})")
    inspector = engine.create_engine_inspector()
    return (inspector and inspector.get_engine_information(trt.LayerInformationFormat.JSON)) or ""
