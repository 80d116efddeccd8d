"""What happens to a scene's pixels around the network, on the CPU or on a GPU: the common form.

Either way the windows, the order of additions and the classes are the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol, TypeVar

from mfnet_runtime.tiling.batches import Batch, WindowRows
from mfnet_runtime.tiling.rows import FinishedRows

B = TypeVar("B", bound=Batch)


class Processing(Protocol[B]):
    """Everything that is done to a block of a scene. Leave it to give its memory back."""

    @property
    def batches(self) -> Sequence[B]:
        """Room for all batches that are worked on at a time; they go round."""
        ...

    @property
    def rows(self) -> WindowRows[B]:
        """Fills batches; used in a second thread."""
        ...

    @property
    def max_strips(self) -> int:
        """Strips that a batch has room for."""
        ...

    def inferred(self, batches: Iterable[B]) -> Iterator[tuple[B, float]]:
        """Run the network on batches, in the caller's thread.

        Yields:
            The batches in their order, each with the seconds that the backend spent on it.

        Raises:
            ResourceError: the backend has not the memory for the batch.
        """
        ...

    def finished(self, batch: B) -> Iterator[FinishedRows]:
        """Rows that an inferred batch finishes, from the top; used in a third thread.

        Yields:
            Classes and the layers asked for, 255 where not valid.

        Raises:
            ModelError: a logit is NaN or infinite.
        """
        ...

    def __enter__(self) -> Processing[B]: ...

    def __exit__(self, *raised: object) -> None: ...
