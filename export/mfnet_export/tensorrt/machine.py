"""The machine that builds plans: TensorRT with its builder, and a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from mfnet_runtime.backends.tensorrt.compatibility import OLDEST, version_numbers
from mfnet_runtime.cuda.device import CudaDevice
from mfnet_runtime.errors import ModelError, UsageError, missing_package


class NoBuilderError(ModelError):
    """This machine cannot build plans (exit code 3)."""


@dataclass(frozen=True)
class PlanMachine:
    """A GPU, and the TensorRT that builds for it."""

    trt: Any  # the module
    device: CudaDevice

    @property
    def text(self) -> str:
        """Versions and names, for example `TensorRT 10.13.3.9 on NVIDIA H200`."""
        return f"TensorRT {self.trt.__version__} on {self.device.name}"


@contextmanager
def plan_machine() -> Iterator[PlanMachine]:
    """Open this machine's first GPU and import its TensorRT.

    Raises:
        NoBuilderError: Says what is missing and how to install it.
        ResourceError: The GPU's memory is full.
    """
    try:
        trt = _import_tensorrt()
        # Without a GPU, TensorRT's objects can be created but crash later.
        device = CudaDevice()
    except UsageError as fault:
        raise NoBuilderError(str(fault)) from fault
    except ModuleNotFoundError as fault:
        remedy = missing_package(fault.name)
        if remedy is None:
            raise
        raise NoBuilderError(remedy) from fault
    with device, device.current():
        yield PlanMachine(trt, device)


def require_builder() -> None:
    """Refuse a machine that cannot build plans, before any work is done for one.

    Raises:
        NoBuilderError: Says what is missing and how to install it.
    """
    with plan_machine():
        pass


def _import_tensorrt() -> Any:
    try:
        trt = import_module("tensorrt")
    except ModuleNotFoundError:
        raise
    except (ImportError, OSError) as fault:  # bindings without their libraries
        raise NoBuilderError(
            f"TensorRT does not load ({fault}); install it again: pip install 'mfnet[gpu]'"
        ) from fault
    if version_numbers(trt.__version__) < OLDEST:
        raise NoBuilderError(
            f"TensorRT {trt.__version__} is too old; needs {OLDEST[0]}.{OLDEST[1]} or newer: "
            "pip install 'mfnet[gpu]'"
        )
    return trt
