"""What every backend must do, checked on the real one: the questions of the tests, on a GPU."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from mfnet_runtime.backends.base import Backend, Feed
from mfnet_runtime.errors import ModelError

SEED = 7
Check = Callable[[Backend, int], bool]


def conformance(backend: Backend, largest: int) -> dict[str, bool]:
    """Which of the checks hold.

    Args:
        backend: Entered.
        largest: Batch it was built for.
    """
    return {check.__name__.strip("_"): _holds(check, backend, largest) for check in CHECKS}


def _holds(check: Check, backend: Backend, largest: int) -> bool:
    try:
        return check(backend, largest)
    except Exception as fault:  # whatever it raises, the check does not hold
        print(f"{check.__name__}: {fault}", file=sys.stderr)
        return False


def _feed(backend: Backend, count: int, seed: int = SEED) -> dict[str, Any]:
    rng = np.random.default_rng((seed, count))
    return {
        spec.name: rng.random((count, *spec.shape[1:]), np.float32).astype(spec.dtype)
        for spec in backend.inputs
    }


def _logits(backend: Backend, feed: Feed) -> Any:
    return backend.infer(feed)["logits"].copy()


def _answers_every_batch(backend: Backend, largest: int) -> bool:
    for count in sorted({1, 2, largest // 2 or 1, largest}):
        found = backend.infer(_feed(backend, count))["logits"]
        if found.shape != (count, *backend.outputs[0].shape[1:]) or not np.isfinite(found).all():
            return False
    return True


def _same_batch_gives_the_same_bits(backend: Backend, largest: int) -> bool:
    feed = _feed(backend, largest)
    first = _logits(backend, feed)
    _logits(backend, _feed(backend, 1))
    return bool((first == _logits(backend, feed)).all())


def _a_window_does_not_depend_on_its_neighbours(backend: Backend, largest: int) -> bool:
    feed, other = _feed(backend, largest), _feed(backend, largest, SEED + 1)
    mixed = {name: array.copy() for name, array in other.items()}
    for name, array in mixed.items():
        array[0] = feed[name][0]
    return bool((_logits(backend, feed)[0] == _logits(backend, mixed)[0]).all())


def _a_wrong_feed_is_refused_and_the_next_runs(backend: Backend, largest: int) -> bool:
    feed = _feed(backend, 1)
    try:
        backend.infer({"image": feed["image"]})
    except ModelError:
        return len(backend.infer(feed)["logits"]) == 1
    return False


def _too_large_a_batch_is_refused(backend: Backend, largest: int) -> bool:
    if backend.batches.largest is None:
        return True
    try:
        backend.infer(_feed(backend, largest + 1))
    except ModelError:
        return len(backend.infer(_feed(backend, 1))["logits"]) == 1
    return False


CHECKS: tuple[Check, ...] = (
    _answers_every_batch,
    _same_batch_gives_the_same_bits,
    _a_window_does_not_depend_on_its_neighbours,
    _a_wrong_feed_is_refused_and_the_next_runs,
    _too_large_a_batch_is_refused,
)
