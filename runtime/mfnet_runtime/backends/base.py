"""What every backend is: named inputs and outputs, `infer`, and a context manager."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from mfnet_runtime.contract import Contract
from mfnet_runtime.errors import ModelError

if TYPE_CHECKING:
    from mfnet_runtime.cuda.device import CudaDevice, Stream
    from mfnet_runtime.cuda.kernels import Kernels

Feed = Mapping[str, npt.NDArray[Any]]
Arrays = dict[str, npt.NDArray[Any]]

DEFAULT_BATCH = 4  # windows a call, for an engine that prefers no other


@dataclass(frozen=True)
class Batches:
    """What a backend says about its batches, in windows a call."""

    best: int = DEFAULT_BATCH
    largest: int | None = None  # None: whatever memory holds


@dataclass(frozen=True)
class TensorSpec:
    """Name, number type and shape of an input or output; -1 stands for the batch."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]


class Backend(Protocol):
    """A loaded model. Enter it to claim the device, leave it to give the device back.

    Names are `image` (N, 3, window, window), `dsm` (N, 1, window, window), both in [0, 1], and
    `logits` (N, classes, window, window); all float32, or all float16. Output arrays are valid
    until the next `infer`.
    """

    @property
    def name(self) -> str:
        """Name in the table of backends."""
        ...

    @property
    def device(self) -> str:
        """The device that really runs the model, in words."""
        ...

    @property
    def precision(self) -> str:
        """What really runs: `fp32`, `fp16`, `bf16`, `int8` (floats fp32), `int8+bf16`."""
        ...

    @property
    def threads(self) -> int:
        """CPU threads that compute; 0 where none does."""
        ...

    @property
    def contract(self) -> Contract:
        """What the model promises."""
        ...

    @property
    def batches(self) -> Batches:
        """How many windows a call of `infer` should and may have."""
        ...

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """`image` and `dsm`."""
        ...

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """`logits`."""
        ...

    def infer(self, feed: Feed) -> Arrays:
        """Run one batch of 1 or more windows."""
        ...

    def __enter__(self) -> Backend: ...

    def __exit__(self, *raised: object) -> None: ...


class DeviceTensors(Protocol):
    """The inputs and outputs of a model in a GPU's memory; pointers are plain ints."""

    @property
    def image(self) -> int:
        """(N, 3, window, window)."""
        ...

    @property
    def dsm(self) -> int:
        """(N, 1, window, window)."""
        ...

    @property
    def logits(self) -> int:
        """(N, classes, window, window)."""
        ...

    def enqueue(self, windows: int, stream: Stream) -> None:
        """Run the network on the first windows, in the order of the stream."""
        ...


@runtime_checkable
class DeviceBackend(Protocol):
    """A backend whose inputs may be made, and its logits used, without leaving the GPU."""

    @property
    def cuda(self) -> CudaDevice:
        """The GPU that runs it."""
        ...

    def kernels(self) -> Kernels:
        """What cuts windows and blends logits on that GPU, in the model's number type."""
        ...

    def tensors(self, windows: int) -> DeviceTensors:
        """Room for so many windows; valid until more are asked for, or the backend is left.

        Raises:
            ResourceError: the GPU has not the memory.
        """
        ...


def specs_of(
    contract: Contract, dtype: npt.DTypeLike = np.float32
) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """The inputs and outputs that a contract implies."""
    side, kind = (contract.window, contract.window), np.dtype(dtype)
    inputs = (TensorSpec("image", kind, (-1, 3, *side)), TensorSpec("dsm", kind, (-1, 1, *side)))
    return inputs, (TensorSpec("logits", kind, (-1, len(contract.classes), *side)),)


def check_feed(feed: Feed, inputs: tuple[TensorSpec, ...]) -> None:
    """Refuse a feed whose names, types or shapes differ from the model's.

    Raises:
        ModelError: with both values in the message.
    """
    if set(feed) != {spec.name for spec in inputs}:
        expected = ", ".join(spec.name for spec in inputs)
        raise ModelError(f"feed has {', '.join(sorted(feed))}; the model takes {expected}")
    batch = {array.shape[0] if array.ndim else 0 for array in feed.values()}
    for spec in inputs:
        array = feed[spec.name]
        if array.dtype != spec.dtype or array.shape[1:] != spec.shape[1:]:
            raise ModelError(
                f"input '{spec.name}' is {array.dtype} {array.shape}; "
                f"the model takes {spec.dtype} (N, {', '.join(map(str, spec.shape[1:]))})"
            )
    if len(batch) != 1 or 0 in batch:
        raise ModelError(f"inputs have batch sizes {sorted(batch)}; expected one, at least 1")
