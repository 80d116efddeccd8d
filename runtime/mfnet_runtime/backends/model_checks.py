"""Checks that all backends share: tensors of the graph, faults of the engine, threads."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from mfnet_runtime.backends.base import TensorSpec
from mfnet_runtime.errors import NO_MEMORY, MFNetError, ModelError, ResourceError


def require_graph(
    path: Path,
    found: Mapping[str, tuple[object, tuple[int, ...]]],
    expected: tuple[TensorSpec, ...],
) -> None:
    """Require that a graph has exactly the tensors its contract implies.

    Args:
        path: The model, for the message.
        found: Name to number type and shape, -1 for a dynamic size.
        expected: See `base.specs_of`.

    Raises:
        ModelError: the message has both.
    """
    wanted = {spec.name: (spec.dtype.type, spec.shape) for spec in expected}
    if found != wanted:
        raise ModelError(
            f"{path}: the graph has {dict(found)}, its contract implies {wanted}; export it again"
        )


@contextmanager
def loading(path: Path, engine: str) -> Iterator[None]:
    """Translate what an engine raises while it loads a file.

    Raises:
        ResourceError: memory ran out.
        ModelError: any other fault of the engine.
    """
    try:
        yield
    except Exception as fault:  # the bindings raise many unrelated types
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
    """Translate what an engine raises while it runs a batch.

    Raises:
        ResourceError: memory ran out; the message names the batch.
        ModelError: any other fault of the engine.
    """
    try:
        yield
    except MFNetError:
        raise
    except Exception as fault:
        if _no_memory(fault):
            raise ResourceError(
                f"{path}: a batch of {batch} windows does not fit in memory "
                f"({engine}: {_reason(fault)}); use a smaller --batch, or free memory"
            ) from fault
        raise ModelError(
            f"{path}: {engine} cannot run it ({_reason(fault)}); export it again with mfnet-export"
        ) from fault


def threads_or_cores(threads: int) -> int:
    """Return the requested threads, or for 0 the physical cores this process may run on."""
    if threads:
        return threads
    cpus = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    cores = {_core(cpu) for cpu in cpus}
    return len(cores) or os.cpu_count() or 1


def _core(cpu: int) -> tuple[str, str]:
    """Return socket and core of a logical CPU; without that information, each is its own core."""
    folder = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology")
    try:
        return (folder / "physical_package_id").read_text(), (folder / "core_id").read_text()
    except OSError:
        return "", str(cpu)


def _no_memory(fault: Exception) -> bool:
    return isinstance(fault, MemoryError) or bool(NO_MEMORY.search(str(fault)))


def _reason(fault: Exception) -> str:
    """Shorten a message to its end; the beginning is the place in C++ where it happened."""
    text = " ".join(str(fault).split()) or type(fault).__name__
    return text if len(text) <= 200 else f"... {text[-200:]}"
