"""The machine that builds plans: a flavour of TensorRT and, if that needs one, a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from mfnet_runtime.backends.tensorrt.flavour import (
    FULL,
    RTX,
    Flavour,
    import_flavour,
    is_installed,
)
from mfnet_runtime.cuda.device import CudaDevice
from mfnet_runtime.errors import ModelError, UsageError, missing_package


class NoBuilderError(ModelError):
    """This machine cannot build plans (exit code 3)."""


@dataclass(frozen=True)
class PlanMachine:
    """A TensorRT, and the GPU that it builds for."""

    trt: Any  # the module
    flavour: Flavour
    device: CudaDevice | None = None  # None: TensorRT for RTX builds without one

    @property
    def text(self) -> str:
        """Versions and names, for example `TensorRT 10.13.3.9 on NVIDIA H200`."""
        place = f" on {self.device.name}" if self.device else ""
        return f"{self.flavour.title} {self.trt.__version__}{place}"

    def current(self) -> AbstractContextManager[Any]:
        """Make the GPU's context current in this thread for a `with` block."""
        return self.device.current() if self.device else nullcontext()


@contextmanager
def plan_machine(rtx: bool = False) -> Iterator[PlanMachine]:
    """Open TensorRT and this machine's first GPU, or else TensorRT for RTX, which needs no GPU.

    Args:
        rtx: Use TensorRT for RTX even if this machine has both.

    Raises:
        NoBuilderError: Says what is missing and how to install it.
        ResourceError: The GPU's memory is full.
    """
    machine = _rtx_machine() if rtx else _first_machine()
    if machine.device is None:
        yield machine
        return
    with machine.device, machine.current():
        yield machine


def require_builder(rtx: bool = False) -> None:
    """Refuse a machine that cannot build plans, before any work is done for one.

    Raises:
        NoBuilderError: Says what is missing and how to install it.
    """
    with plan_machine(rtx):
        pass


def _first_machine() -> PlanMachine:
    try:
        with _no_builder():
            trt = import_flavour(FULL)
            # Without a GPU, TensorRT's objects can be created but crash later.
            return PlanMachine(trt, FULL, CudaDevice())
    except NoBuilderError as fault:
        missing = fault
    if not is_installed(RTX):
        raise NoBuilderError(
            f"{missing}; or TensorRT for RTX, which builds without a GPU: pip install 'mfnet[rtx]'"
        ) from missing
    return _rtx_machine()


def _rtx_machine() -> PlanMachine:
    with _no_builder():
        return PlanMachine(import_flavour(RTX), RTX)


@contextmanager
def _no_builder() -> Iterator[None]:
    """Raise NoBuilderError, with the remedy, for what is missing or does not load."""
    try:
        yield
    except UsageError as fault:
        raise NoBuilderError(str(fault)) from fault
    except ModuleNotFoundError as fault:
        remedy = missing_package(fault.name)
        if remedy is None:
            raise
        raise NoBuilderError(remedy) from fault
