"""ONNX file to TensorRT plan: the whole build, one visible function. Needs no PyTorch."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mfnet_export.errors import ExportError
from mfnet_export.files import size_text, staged
from mfnet_export.tensorrt.config import config_from_options
from mfnet_export.tensorrt.engine import EngineFacts, facts_of_engine
from mfnet_export.tensorrt.machine import PlanMachine, plan_machine
from mfnet_export.tensorrt.network import FLOATS, network_from_onnx
from mfnet_export.tensorrt.options import PlanOptions
from mfnet_export.tensorrt.progress import Watch, watch_build, watched
from mfnet_export.tensorrt.timing_cache import timings
from mfnet_runtime.backends.onnx_file import contract_in_onnx
from mfnet_runtime.backends.tensorrt.engine import recording_logger
from mfnet_runtime.backends.tensorrt.plan_file import PLAN_SUFFIX, PlanFacts, sidecar_of
from mfnet_runtime.contract import Contract
from mfnet_runtime.errors import NO_MEMORY, ModelError, ResourceError, UsageError
from mfnet_runtime.files import sha256_from_file

Tell = Callable[[str], None]


@dataclass(frozen=True)
class PlanReport:
    """What was built."""

    output: Path
    size: int  # bytes
    facts: PlanFacts
    attentions: int  # in the graph, of a head size that TensorRT has fused kernels for
    warnings: tuple[str, ...]  # the last that TensorRT gave
    seconds: float

    @property
    def caution(self) -> str:
        """What is slower than it should be; empty if nothing is known to be."""
        fused = self.facts.fused_attentions
        if self.facts.contract.precision != "fp16" or fused is None or fused >= self.attentions:
            return ""
        return (
            f"{fused} fused attention kernels for {self.attentions} attentions: the others run "
            "unfused and slower; another version of TensorRT may fuse them"
        )

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types only."""
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
        """For people, ending in what to do next."""
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
        ]
        if self.caution:
            rows.append(f"warning: {self.caution}")
        rows = [f"{'plan' if not index else '':8}  {row}" for index, row in enumerate(rows)]
        return [*rows, f"next: mfnet-run {self.output} SCENES -o OUT"]


def plan_from_onnx(
    source: Path, target: Path, options: PlanOptions, tell: Tell = lambda _: None
) -> PlanReport:
    """Build the plan of an ONNX file and write it, with its facts beside it.

    Both files appear, or are replaced, only on success.

    Args:
        source: FP16 or FP32 ONNX file with a contract.
        target: Ending in `.plan`.
        options: What to ask of TensorRT.
        tell: Told what is being done, a few words each.

    Raises:
        UsageError: no such file or folder, or options this TensorRT or GPU cannot follow.
        NoBuilderError: no TensorRT or no GPU here.
        ModelError: the file has no contract, or one that plans cannot keep.
        ExportError: TensorRT cannot read the file or build it.
        ResourceError: the GPU's memory, or the disk, is full; or the GPU failed.
    """
    started = time.perf_counter()
    contract = _contract_from_source(source, target)
    with plan_machine() as machine, staged(target) as partial:
        tell(f"building with {machine.text}, which takes minutes")
        plan, attentions, warnings = _built(machine, source, contract, options, tell)
        counts = facts_of_engine(machine.trt, plan)
        partial.write_bytes(plan)
        facts = _facts(machine, source, partial, contract, options, counts)
        sidecar_of(partial).write_text(facts.to_json(), encoding="utf-8")
    seconds = time.perf_counter() - started
    return PlanReport(target, len(plan), facts, attentions, warnings, seconds)


def _contract_from_source(source: Path, target: Path) -> Contract:
    if not source.is_file():
        raise UsageError(f"{source}: no such file; give an ONNX file with --onnx")
    if target.suffix != PLAN_SUFFIX:
        raise UsageError(f"{target}: expected a name ending in {PLAN_SUFFIX}")
    contract = contract_in_onnx(source)
    if contract.precision not in FLOATS:
        raise ModelError(
            f"{source}: is {contract.precision.upper()}, plans are built from FP16 or FP32 files; "
            "export one with mfnet-export --fp16"
        )
    return contract


def _built(
    machine: PlanMachine, source: Path, contract: Contract, options: PlanOptions, tell: Tell
) -> tuple[bytes, int, tuple[str, ...]]:
    """The plan, attentions in the graph, and TensorRT's warnings."""
    trt, watch = machine.trt, Watch()
    logger = recording_logger(trt)
    builder = trt.Builder(logger)
    portable = options.version_compatible or options.hardware != "none"
    read = network_from_onnx(trt, builder, logger, source, contract, portable, tell)
    config = config_from_options(machine, builder, read, contract, options)
    watch_build(trt, config, watch)

    def build() -> Any:
        with machine.device.current():  # of this thread
            return builder.build_serialized_network(read.network, config)

    with timings(config, options.timing_cache, tell):
        memory = watched(build, watch, tell)
        if memory is None:
            raise _build_fault(machine, source, logger.errors)
    return bytes(memory), read.graph.attentions, tuple(logger.warnings)


def _build_fault(machine: PlanMachine, source: Path, errors: list[str]) -> Exception:
    """Why TensorRT gave no plan.

    Raises:
        DeviceLostError: the GPU failed; TensorRT does not tell that from other faults.
    """
    machine.device.memory()
    reason = "; ".join(errors) or "it does not say why"
    if NO_MEMORY.search(reason):
        return ResourceError(
            f"{source}: {machine.text} ran out of memory while building ({reason}); use smaller "
            "--batches or --workspace, or end other programs on the GPU"
        )
    return ExportError(
        f"{source}: {machine.text} cannot build it ({reason}); "
        "try another --opt-level, or another version of TensorRT"
    )


def _facts(
    machine: PlanMachine,
    source: Path,
    plan: Path,
    contract: Contract,
    options: PlanOptions,
    counts: EngineFacts,
) -> PlanFacts:
    return PlanFacts(
        contract=contract,
        plan_sha256=sha256_from_file(plan),
        onnx_sha256=sha256_from_file(source),
        tensorrt=machine.trt.__version__,
        cuda=machine.device.cuda,
        driver=machine.device.driver,
        gpu=machine.device.name,
        compute_capability=machine.device.compute_capability,
        profile=options.profile,
        version_compatible=options.version_compatible,
        hardware=options.hardware,
        weights=not options.strip_weights,
        layers=counts.layers,
        fused_attentions=counts.fused_attentions,
    )
