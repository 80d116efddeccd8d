"""The options of `mfnet-run` that say what runs the model, and with what means."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mfnet_runtime.backends import DEVICES
from mfnet_runtime.console import option_group, threads_option
from mfnet_runtime.errors import UsageError
from mfnet_runtime.tiling.options import AskedBatch

if TYPE_CHECKING:
    from mfnet_runtime.backends.base import Backend


@dataclass(frozen=True)
class EngineWords:
    """What the command line says about the engine, as click gives it."""

    batch: str | None
    backend: str
    device: str
    preprocess: Any  # "gpu", "cpu" or None
    trust_plan: bool
    precision: str | None
    max_memory: str | None
    threads: int | None

    def batch_size(self) -> AskedBatch:
        """Windows a call, `auto`, or None for the backend's best.

        Raises:
            UsageError: neither a whole number nor `auto`.
        """
        if self.batch is None:
            return None
        if self.batch == "auto":
            return "auto"
        try:
            return int(self.batch)
        except ValueError:
            raise UsageError(
                f"--batch {self.batch!r}: expected a number of windows, or auto"
            ) from None

    def memory(self) -> int | None:
        """Bytes for pixels.

        Raises:
            UsageError: no size.
        """
        from mfnet_runtime.tiling.memory import bytes_from_text

        return bytes_from_text(self.max_memory) if self.max_memory else None

    def backend_of(self, model: Path) -> Backend:
        """The backend for a file, not entered; see `backend_from_file`."""
        from mfnet_runtime.backends import backend_from_file

        batch = self.batch_size()
        return backend_from_file(
            model,
            self.backend,
            self.device,
            self.trust_plan,
            threads=self.threads or 0,
            precision=self.precision,
            batch=batch if isinstance(batch, int) else None,
        )


_OPTIONS = (
    click.option(
        "--backend",
        metavar="NAME",
        default="auto",
        show_default=True,
        help="onnxruntime, openvino, tensorrt, or auto for the fastest installed.",
    ),
    click.option(
        "--device",
        type=click.Choice(["auto", *DEVICES]),
        default="auto",
        show_default=True,
        help="Where it runs; auto is what the file needs. Never another than asked for.",
    ),
    click.option(
        "--precision",
        type=click.Choice(["fp32", "bf16"]),
        help="What floating-point operations run in on a CPU [default: fp32, also where it has "
        "BF16].",
    ),
    click.option(
        "--batch",
        metavar="N|auto",
        help="Windows a call; auto finds the fastest on the first windows "
        "[default: 4, or what a plan is best at].",
    ),
    threads_option("physical cores"),
    click.option(
        "--max-memory",
        metavar="SIZE",
        help="For pixels, besides what the model takes: 800M or 2G [default: some 250M].",
    ),
    click.option(
        "--preprocess",
        type=click.Choice(["gpu", "cpu"]),
        help="Where windows are cut and blended [default: gpu with a plan, else cpu].",
    ),
    click.option(
        "--trust-plan",
        is_flag=True,
        help="Run a plan although nothing beside it vouches for its bytes, TensorRT and GPU.",
    ),
)

engine_options = option_group(EngineWords, _OPTIONS, "engine", "Engine")
