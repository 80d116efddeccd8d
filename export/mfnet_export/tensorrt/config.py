"""Options to TensorRT's builder configuration. Runs no build."""

from __future__ import annotations

from typing import Any

from mfnet_export.tensorrt.machine import PlanMachine
from mfnet_export.tensorrt.network import TrtNetwork, allow_fp16
from mfnet_export.tensorrt.options import PlanOptions
from mfnet_runtime.backends.base import specs_of
from mfnet_runtime.contract import Contract
from mfnet_runtime.errors import UsageError

GIB = 1 << 30
VENDOR = ("CUBLAS", "CUBLAS_LT", "CUDNN")  # tactic sources; TensorRT 11 has none of them
# Hardware compatibility needs a GPU of this compute capability or newer.
OLDEST_GPU = {"same_compute_capability": (7, 5), "ampere_plus": (8, 0)}


def config_from_options(
    machine: PlanMachine, builder: Any, read: TrtNetwork, contract: Contract, options: PlanOptions
) -> Any:
    """An `IBuilderConfig` that is complete but for the timing cache and the progress monitor.

    TF32 is never used: a file in FP32 is the reference that others are compared with.

    Raises:
        UsageError: this TensorRT or this GPU cannot do what an option asks.
    """
    trt = machine.trt
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # lets the inspector name kernels
    if contract.precision == "fp16":
        allow_fp16(trt, config, read)
    if options.workspace is not None:
        size = int(options.workspace * GIB)
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, size)
    if options.level is not None:
        config.builder_optimization_level = options.level
    if options.own_kernels:
        config.set_tactic_sources(_without_vendor(trt, config.get_tactic_sources()))
    if options.hardware != "none":
        config.hardware_compatibility_level = _hardware_level(machine, options.hardware)
    for flag in _flags(options):
        config.set_flag(_of_version(trt, "BuilderFlag", flag))
    config.add_optimization_profile(_profile(builder, contract, options))
    return config


def _flags(options: PlanOptions) -> list[str]:
    """Names of the builder flags that options stand for."""
    flags = []
    if options.version_compatible:
        flags.append("VERSION_COMPATIBLE")
    if options.strip_weights:
        flags.append("STRIP_PLAN")
    if options.refittable:
        flags.append("REFIT")
    elif options.strip_weights:
        flags.append("REFIT_IDENTICAL")  # costs no speed, as REFIT does
    return flags


def _of_version(trt: Any, group: str, name: str) -> Any:
    """A value of an enumeration that older versions lack."""
    values = getattr(trt, group).__members__
    if name not in values:
        raise UsageError(
            f"TensorRT {trt.__version__} has no {group}.{name}; leave the option out, "
            "or install TensorRT 10 or newer"
        )
    return values[name]


def _without_vendor(trt: Any, sources: int) -> int:
    """A set of tactic sources (bits) without those of other libraries."""
    for name, source in trt.TacticSource.__members__.items():
        if name in VENDOR:
            sources &= ~(1 << int(source))
    return sources


def _hardware_level(machine: PlanMachine, level: str) -> Any:
    oldest, here = OLDEST_GPU[level], machine.device.compute_capability
    if here < oldest:
        raise UsageError(
            f"--hardware-compatible {level}: {machine.device.name} has compute capability "
            f"{here[0]}.{here[1]}, needed is {oldest[0]}.{oldest[1]} or newer"
        )
    return _of_version(machine.trt, "HardwareCompatibilityLevel", level.upper())


def _profile(builder: Any, contract: Contract, options: PlanOptions) -> Any:
    """All inputs at the three batches."""
    profile, batches = builder.create_optimization_profile(), options.profile
    inputs, _ = specs_of(contract)
    for spec in inputs:
        shapes = [
            (batch, *spec.shape[1:]) for batch in (batches.smallest, batches.best, batches.largest)
        ]
        profile.set_shape(spec.name, *shapes)
    return profile
