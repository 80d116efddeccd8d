"""TensorRT's builder configuration, what it cannot build, and its timing cache in a file."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mfnet_export.files import staged_output
from mfnet_export.options import require_unset
from mfnet_export.tensorrt.machine import NoBuilderError, PlanMachine
from mfnet_export.tensorrt.network import ParsedNetwork, allow_fp16, has_strong_types
from mfnet_export.tensorrt.options import PORTABLE_TARGET, PlanOptions
from mfnet_runtime.backends.base import HALF, specs_of
from mfnet_runtime.backends.tensorrt.flavour import FULL, RTX
from mfnet_runtime.contract import Contract
from mfnet_runtime.errors import UsageError

logger = logging.getLogger(__name__)

GIB = 1 << 30
VENDOR = ("CUBLAS", "CUBLAS_LT", "CUDNN")  # tactic sources; TensorRT 11 has none of them
# Options that TensorRT for RTX refuses to build with, or ignores.
NOT_ON_RTX = (
    "timing_cache",
    "own_kernels",
    "version_compatible",
    "hardware_compatible",
    "refittable",
    "strip_weights",
)
# Oldest GPU (compute capability) for each level of hardware compatibility.
OLDEST_GPU = {"same_compute_capability": (7, 5), "ampere_plus": (8, 0)}


def config_from_options(
    machine: PlanMachine,
    builder: Any,
    parsed: ParsedNetwork,
    contract: Contract,
    options: PlanOptions,
) -> Any:
    """Return an `IBuilderConfig`, complete except for timing cache and progress monitor.

    TF32 is always off, because FP32 plans are a reference for others.

    Raises:
        UsageError: This version of TensorRT or this GPU does not support an option.
    """
    trt = machine.trt
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # the inspector names kernels
    if contract.precision in HALF:
        allow_fp16(trt, config, parsed)
    if options.cards:
        _set_targets(machine, config, options.cards)
    if options.workspace is not None:
        size = int(options.workspace * GIB)
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, size)
    if options.opt_level is not None:
        config.builder_optimization_level = options.opt_level
    if options.own_kernels:
        sources = config.get_tactic_sources()  # one bit each
        for name, source in trt.TacticSource.__members__.items():
            if name in VENDOR:
                sources &= ~(1 << int(source))
        config.set_tactic_sources(sources)
    if options.hardware_compatible != "none":
        config.hardware_compatibility_level = _hardware_level(machine, options.hardware_compatible)
    flags = {
        "VERSION_COMPATIBLE": options.version_compatible,
        "REFIT": options.refittable,
        "STRIP_PLAN": options.strip_weights,
        # Allows a refit with the same weights, which unlike REFIT costs no speed.
        "REFIT_IDENTICAL": options.strip_weights and not options.refittable,
    }
    for flag in (name for name, used in flags.items() if used):
        config.set_flag(_member(trt, "BuilderFlag", flag))
    profile, batches = builder.create_optimization_profile(), options.batches
    for spec in specs_of(contract)[0]:
        sizes = (batches.smallest, batches.best, batches.largest)
        profile.set_shape(spec.name, *((size, *spec.shape[1:]) for size in sizes))
    config.add_optimization_profile(profile)
    return config


def require_buildable(machine: PlanMachine, contract: Contract, options: PlanOptions) -> None:
    """Refuse what this flavour of TensorRT does not build, or would silently ignore.

    Raises:
        UsageError: Names the option, and what to use instead.
        NoBuilderError: Names the precision.
    """
    precision = contract.precision
    if machine.flavour is FULL:
        if precision.startswith("int8") and not has_strong_types(machine.trt):
            raise NoBuilderError(
                f"{machine.text} builds no {precision.upper()} plans; needs TensorRT 10 or newer"
            )
        return
    require_unset(options, NOT_ON_RTX, f"is not for {RTX.title}; build with TensorRT on the GPU,")
    known = known_targets(machine.trt)
    for target in options.target:
        if target not in known:
            raise UsageError(
                f"--target {target}: {machine.text} builds for {', '.join(known)}; for other "
                "GPUs build with TensorRT on the GPU: pip install 'mfnet[gpu]'"
            )
    if "sm75" in options.target and precision not in HALF:
        raise UsageError(
            f"--target sm75: Turing has no {precision.upper()} plan, because {RTX.title} "
            "multiplies no FP32 matrices there; build one from a file of --fp16"
        )


def known_targets(trt: Any) -> tuple[str, ...]:
    """Return the names that `--target` accepts with this TensorRT for RTX."""
    members = trt.ComputeCapability.__members__
    return (PORTABLE_TARGET, *(name.lower() for name in members if name.startswith("SM")))


def _set_targets(machine: PlanMachine, config: Any, cards: tuple[str, ...]) -> None:
    """Build for some cards; without, TensorRT for RTX builds for all from Ampere on."""
    members = machine.trt.ComputeCapability.__members__
    config.num_compute_capabilities = len(cards)
    for index, target in enumerate(cards):
        config.set_compute_capability(members[target.upper()], index)


@contextmanager
def timing_cache(config: Any, path: Path | None) -> Iterator[None]:
    """Use the timing cache in a file for a build, and update the file if the block succeeds.

    A cache that is damaged, or of another GPU or TensorRT, is replaced by a new one.

    Args:
        config: Configuration of the build in the block.
        path: The file; None uses none.

    Raises:
        UsageError: The folder does not exist, or the file cannot be read.
        ResourceError: The file cannot be written.
    """
    if path is None:
        yield
        return
    with staged_output(path) as partial:
        try:
            content = path.read_bytes() if path.exists() else b""
        except OSError as fault:
            raise UsageError(f"{path}: cannot be read ({fault.strerror})") from fault
        if not _set_cache(config, content):
            logger.info("%s is damaged, or of another GPU or TensorRT: starting anew", path.name)
            _set_cache(config, b"")
        yield
        partial.write_bytes(bytes(config.get_timing_cache().serialize()))


def _set_cache(config: Any, content: bytes) -> bool:
    """Return False if TensorRT rejects the cache."""
    cache = config.create_timing_cache(content)
    return cache is not None and bool(config.set_timing_cache(cache, False))


def _member(trt: Any, group: str, name: str) -> Any:
    """Return a member of an enumeration that older versions may lack."""
    members = getattr(trt, group).__members__
    if name not in members:
        raise UsageError(
            f"TensorRT {trt.__version__} has no {group}.{name}; leave the option out, "
            "or install TensorRT 10 or newer"
        )
    return members[name]


def _hardware_level(machine: PlanMachine, level: str) -> Any:
    device = machine.device
    assert device is not None  # `require_buildable` refuses the option without one
    oldest, here = OLDEST_GPU[level], device.compute_capability
    if here < oldest:
        raise UsageError(
            f"--hardware-compatible {level}: {device.name} has compute capability "
            f"{here[0]}.{here[1]}, needed is {oldest[0]}.{oldest[1]} or newer"
        )
    return _member(machine.trt, "HardwareCompatibilityLevel", level.upper())
