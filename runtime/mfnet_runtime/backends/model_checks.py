"""What every backend of ONNX files checks alike: contract, precision, graph, memory, threads.

Knows no engine.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from mfnet_runtime.backends.base import TensorSpec
from mfnet_runtime.backends.onnx_header import header_from_onnx
from mfnet_runtime.contract import METADATA_KEY, Contract
from mfnet_runtime.errors import ModelError, ResourceError, UsageError

OPSETS = range(13, 24)  # OpenVINO takes later ones without a word and may read them wrongly
FLOATS = (None, "fp32", "bf16")
GPU_ONLY = {
    "fp16": "an FP16 file runs thousands of times too slowly on a CPU; run the FP32 file, or on a "
    "GPU build a plan: mfnet-export --onnx {} --plan, or use --device cuda "
    "(pip install onnxruntime-gpu)",
    "bf16": "a BF16 file does not run on a CPU; export in FP32 and run it with --precision bf16",
}
# What the engines say when an allocation fails; none of them raises a type of its own.
NO_MEMORY = re.compile(
    r"failed to allocate|failed to map segment|can't alloc|cannot allocate|bad_alloc"
    r"|out ?of ?memory|insufficient mem|could not (be )?allocate|can't start new thread",
    re.IGNORECASE,
)


def contract_from_onnx(path: Path, precision: str | None) -> Contract:
    """The contract in a file, if a CPU can keep it.

    Args:
        path: The ONNX file.
        precision: What floats are asked to run in.

    Raises:
        ModelError: damaged, of an unknown opset, no contract, or made for a GPU.
        UsageError: no such precision.
    """
    require_known(precision)
    contract = contract_in_onnx(path)
    if contract.precision in GPU_ONLY:
        remedy = GPU_ONLY[contract.precision].format(path.name)
        raise ModelError(f"{path}: {remedy}")
    return contract


def require_known(precision: str | None) -> None:
    """Refuse a precision that no backend has.

    Raises:
        UsageError: with those there are.
    """
    if precision not in FLOATS:
        raise UsageError(f"no precision named {precision!r}; there are fp32, bf16")


def contract_in_onnx(path: Path) -> Contract:
    """The contract in a file, whatever is needed to keep it.

    Raises:
        ModelError: damaged, of an unknown opset, or no contract.
    """
    header = header_from_onnx(path)
    if header.opset not in OPSETS:
        raise ModelError(
            f"{path}: ONNX opset {header.opset}; this version runs {OPSETS[0]} to {OPSETS[-1]}; "
            "export it again with mfnet-export"
        )
    if METADATA_KEY not in header.metadata:
        raise ModelError(
            f"{path}: ONNX file without an mfnet contract; export it with mfnet-export"
        )
    try:
        return Contract.from_json(header.metadata[METADATA_KEY])
    except ModelError as fault:
        raise ModelError(f"{path}: {fault}; export it again with mfnet-export") from fault


def require_graph(
    path: Path,
    found: Mapping[str, tuple[object, tuple[int, ...]]],
    expected: tuple[TensorSpec, ...],
) -> None:
    """A graph must have just the tensors its contract implies.

    Args:
        path: For the message.
        found: Name to number type and shape, -1 for a size that is open.
        expected: See `base.specs_of`.

    Raises:
        ModelError: with both in the message.
    """
    wanted = {spec.name: (spec.dtype.type, spec.shape) for spec in expected}
    if found != wanted:
        raise ModelError(
            f"{path}: the graph has {dict(found)}, its contract implies {wanted}; export it again"
        )


@contextmanager
def loading(path: Path, engine: str) -> Iterator[None]:
    """Turn what an engine raises while it loads a file into a fault with a remedy.

    Raises:
        ResourceError: memory ran out.
        ModelError: anything else that the engine has against the file.
    """
    try:
        yield
    except Exception as fault:  # the bindings raise a dozen unrelated types
        if _no_memory(fault):
            raise ResourceError(
                f"{path}: does not fit in memory ({engine}: {_reason(fault)}); "
                "use a smaller network, or free memory"
            ) from fault
        raise ModelError(
            f"{path}: {engine} cannot load it ({_reason(fault)}); export it again with mfnet-export"
        ) from fault


@contextmanager
def running(path: Path, engine: str, batch: int) -> Iterator[None]:
    """Name the batch when an engine has not the memory to run it; other faults pass.

    Raises:
        ResourceError: memory ran out.
    """
    try:
        yield
    except Exception as fault:
        if not _no_memory(fault):
            raise
        raise ResourceError(
            f"{path}: a batch of {batch} windows does not fit in memory "
            f"({engine}: {_reason(fault)}); use a smaller --batch, or free memory"
        ) from fault


def threads_or_cores(threads: int) -> int:
    """Threads to use: those asked for, or with 0 the physical cores this process may run on."""
    if threads:
        return threads
    cpus = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    cores = {_core(cpu) for cpu in cpus}
    return len(cores) or os.cpu_count() or 1


def _core(cpu: int) -> tuple[str, str]:
    """Socket and core of a logical CPU; where Linux does not tell, each is its own core."""
    folder = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology")
    try:
        return (folder / "physical_package_id").read_text(), (folder / "core_id").read_text()
    except OSError:
        return "", str(cpu)


def _no_memory(fault: Exception) -> bool:
    return isinstance(fault, MemoryError) or bool(NO_MEMORY.search(str(fault)))


def _reason(fault: Exception) -> str:
    """The end of a message says more than its beginning, which is where in C++ it happened."""
    text = " ".join(str(fault).split()) or type(fault).__name__
    return text if len(text) <= 200 else f"... {text[-200:]}"
