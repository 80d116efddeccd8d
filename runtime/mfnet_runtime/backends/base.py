"""The interface of a backend: named inputs and outputs, `infer`, and a context manager."""

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

HALF = ("fp16", "int8+fp16")  # precisions of files whose inputs and outputs are FP16
DEFAULT_BATCH = 4  # windows per call, for an engine without a preference


@dataclass(frozen=True)
class Batches:
    """Batch sizes of a backend, in windows per call."""

    best: int = DEFAULT_BATCH
    largest: int | None = None  # None: limited by memory only


@dataclass(frozen=True)
class TensorSpec:
    """Name, number type and shape of an input or output; -1 stands for the batch size."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]


class Backend(Protocol):
    """A loaded model. Enter it to claim the device, leave it to release the device.

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
        """Description of the device that really runs the model."""
        ...

    @property
    def precision(self) -> str:
        """Precision in use: one of `contract.PRECISIONS` (`int8`: rest fp32), or `int8+bf16`."""
        ...

    @property
    def threads(self) -> int:
        """Number of CPU threads that compute; 0 on a GPU."""
        ...

    @property
    def contract(self) -> Contract:
        """Contract of the model."""
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
    """Inputs and outputs of a model in GPU memory; pointers are plain integers."""

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
        """Enqueue the network for the first windows."""
        ...


@runtime_checkable
class DeviceBackend(Protocol):
    """A backend whose inputs can be made, and its logits used, on the GPU."""

    @property
    def cuda(self) -> CudaDevice:
        """The GPU that runs the model."""
        ...

    def kernels(self) -> Kernels:
        """Kernels that cut windows and blend logits in the model's number type."""
        ...

    def tensors(self, windows: int) -> DeviceTensors:
        """Reserve memory for this many windows; valid until more are requested or it is left.

        Raises:
            ResourceError: not enough GPU memory.
        """
        ...


def specs_of(contract: Contract) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Return the inputs and outputs that a contract implies."""
    side = (contract.window, contract.window)
    kind = np.dtype(np.float16 if contract.precision in HALF else np.float32)
    inputs = (TensorSpec("image", kind, (-1, 3, *side)), TensorSpec("dsm", kind, (-1, 1, *side)))
    return inputs, (TensorSpec("logits", kind, (-1, len(contract.classes), *side)),)


def check_feed(feed: Feed, inputs: tuple[TensorSpec, ...]) -> None:
    """Refuse a feed whose names, types or shapes differ from the model's.

    Raises:
        ModelError: the message has both.
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
