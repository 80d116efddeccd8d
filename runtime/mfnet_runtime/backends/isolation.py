"""A model of strangers tried out in a process of its own, before it is loaded into ours.

Keeps a crash, endless work and a lack of memory away from us. Is no sandbox: what a model makes an
engine do there, it does as the user who runs it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from mfnet_runtime.backends.base import Backend
from mfnet_runtime.backends.model_checks import contract_in_onnx
from mfnet_runtime.backends.tensorrt.plan_file import PLAN_SUFFIX
from mfnet_runtime.errors import ModelError, UsageError
from mfnet_runtime.subprocesses import call_apart

SECONDS = 600.0  # to load it and to run a window
BASE_MEMORY = 4 << 30  # bytes of addresses, of which an engine takes one or two by itself
PER_BYTE = 8  # more of them for a byte of the file: weights are packed anew, and copied


def require_harmless(path: Path, name: str, device: str, options: dict[str, Any]) -> None:
    """Load a model in another process, and run a window of noise.

    Args:
        path: The model.
        name: The backend that is to run it.
        device: Where.
        options: Those of the backend.

    Raises:
        UsageError: it is a plan, that is, a program.
        ModelError: that process crashed, took too long or too much, or refused the model.
    """
    if path.suffix.lower() == PLAN_SUFFIX:
        raise UsageError(
            f"{path}: a plan is a program, which trying out makes no safer; leave out --untrusted "
            "if you know who made it, or run the ONNX file"
        )
    contract_in_onnx(path)  # so that what we refuse ourselves is said as ever
    words = json.dumps({"name": name, "device": device, **options})
    # a GPU's memory counts as addresses
    memory = BASE_MEMORY + PER_BYTE * path.stat().st_size if device == "cpu" else None
    try:
        call_apart(__name__, "try_out", str(path), words, memory=memory, seconds=SECONDS)
    except OSError as fault:
        if str(fault).startswith(f"{path}: "):  # refused there as it would be here
            raise ModelError(str(fault)) from fault
        raise ModelError(
            f"{path}: failed when tried out in a process of its own ({fault}); export it again "
            "with mfnet-export, from a checkpoint of people you know"
        ) from fault


def try_out(path: str, words: str) -> None:
    """Load a model and run a window; for a process that may crash.

    Raises:
        ModelError: what came out are no logits.
    """
    from mfnet_runtime.backends import backend_from_file

    with backend_from_file(Path(path), **json.loads(words)) as backend:
        require_logits(backend)


def require_logits(backend: Backend) -> None:
    """Refuse a model that makes of a window of noise anything but finite logits.

    Raises:
        ModelError: other shapes, NaN or infinities.
    """
    rng = np.random.default_rng(0)
    feed = {
        spec.name: rng.random((1, *spec.shape[1:]), np.float32).astype(spec.dtype)
        for spec in backend.inputs
    }
    logits = backend.infer(feed)["logits"]
    (expected,) = backend.outputs
    if logits.shape != (1, *expected.shape[1:]) or not np.isfinite(logits).all():
        raise ModelError(
            f"makes {logits.shape} of a window, finite: {bool(np.isfinite(logits).all())}; "
            f"expected finite {(1, *expected.shape[1:])}"
        )
