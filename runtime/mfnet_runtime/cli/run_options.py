"""The options of `mfnet-run` about windows, outputs, resuming and the engine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from mfnet_runtime.backends import DEVICES
from mfnet_runtime.console import option_group, threads_option
from mfnet_runtime.errors import UsageError
from mfnet_runtime.run.executors.choose import ExecutorOptions
from mfnet_runtime.run.options import SIEVE, ResumeOptions, VectorFormat, VectorOptions
from mfnet_runtime.tiling.options import (
    BLENDS,
    DEFAULT_BLEND,
    DEFAULT_QUALITY,
    PROCESSORS,
    PUBLISHED,
    QUALITIES,
    AskedBatch,
    SegmentOptions,
)

if TYPE_CHECKING:
    from mfnet_runtime.backends.base import Backend


@dataclass(frozen=True)
class EngineOptions:
    """Options of the engine that runs the model."""

    backend: str
    device: str
    precision: str | None
    threads: int | None
    trust_plan: bool

    def times_of(self, model: Path) -> dict[str, float]:
        """Time the engines that `auto` has to choose from, see `measure_engines`; else empty."""
        from mfnet_runtime.backends import backend_for, installed_backends

        _, device = backend_for(model, self.backend, self.device, self.trust_plan)
        engines = installed_backends(model, device)
        if self.backend != "auto" or device != "cpu" or len(engines) < 2:
            return {}
        from mfnet_runtime.backends.fastest import measure_engines

        return measure_engines(model, engines, self.threads or 0, self.precision)

    def backend_for(self, model: Path, name: str, batch: AskedBatch) -> Backend:
        """Return the backend for a file, not entered; see `backend_from_file`."""
        from mfnet_runtime.backends import backend_from_file

        return backend_from_file(
            model,
            name,
            self.device,
            self.trust_plan,
            threads=self.threads or 0,
            precision=self.precision,
            batch=batch if isinstance(batch, int) else None,
        )


def _batch(context: Any, option: Any, text: str | None) -> AskedBatch:
    if text is None or text == "auto":
        return text  # type: ignore[return-value]
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"--batch {text!r}: expected a number of windows, or auto") from None


def _memory(context: Any, option: Any, text: str | None) -> int | None:
    from mfnet_runtime.tiling.memory import bytes_from_text

    return bytes_from_text(text) if text else None


window_options = (
    click.option(
        "--quality",
        type=click.Choice(list(QUALITIES)),
        help="Stride as a part of the window, unless --stride is given: "
        f"{', '.join(f'{name} {part}/8' for name, part in QUALITIES.items())} "
        f"[default: {DEFAULT_QUALITY}].",
    ),
    click.option("--stride", type=int, help="Pixels between windows [default: by --quality]."),
    click.option(
        "--blend",
        type=click.Choice(BLENDS),
        help="Weights of overlapping logits: all equal, a Hann window against seams, or "
        f"only the window with the nearest centre [default: {DEFAULT_BLEND}].",
    ),
)
segment_options = option_group(
    SegmentOptions,
    "options",
    {
        "Reading": [
            click.option(
                "--dsm-range",
                type=float,
                nargs=2,
                metavar="MIN MAX",
                help="Heights scaled to 0 and 1 [default: by the model's rule].",
            ),
        ],
        "Windows": [
            *window_options,
            click.option(
                "--protocol",
                type=click.Choice([PUBLISHED]),
                help="Sum logits bit for bit as the paper's test code: stride 32 by default, "
                "float64, heights scaled from the scene's lowest to its highest. On a CPU; slow.",
            ),
        ],
        "Outputs": [
            click.option(
                "--confidence",
                is_flag=True,
                help="Also write NAME.confidence.tif: percent probability of each pixel's class.",
            ),
            click.option(
                "--probabilities",
                is_flag=True,
                help="Also write NAME.probabilities.tif: percent of every class, a band each.",
            ),
        ],
        "Engine": [
            click.option(
                "--batch",
                metavar="N|auto",
                callback=_batch,
                help="Windows per call; auto finds the fastest on the first windows "
                "[default: 4, or the best batch of a plan].",
            ),
            click.option(
                "--preprocess",
                type=click.Choice(PROCESSORS),
                help="Where windows are cut and blended [default: gpu with a plan, else cpu].",
            ),
            click.option(
                "--max-memory",
                metavar="SIZE",
                callback=_memory,
                help="Memory for pixels, of each worker, in addition to the model: 800M or 2G "
                "[default: about 250M].",
            ),
        ],
    },
)

vector_options = option_group(
    VectorOptions,
    "vectors",
    {
        "Outputs": [
            click.option(
                "--vectors",
                type=click.Choice(get_args(VectorFormat)),
                help="Also write polygons: as GeoPackage, FlatGeobuf, GeoJSON or Shapefile.",
            ),
            click.option(
                "--sieve",
                type=click.IntRange(min=0),
                metavar="PX",
                help="Merge patches of fewer pixels into their largest neighbour before polygons "
                f"are made [default: {SIEVE}].",
            ),
            click.option(
                "--min-area",
                type=click.FloatRange(min=0),
                metavar="M2",
                help="Leave out smaller polygons.",
            ),
            click.option(
                "--simplify",
                type=click.FloatRange(min=0),
                metavar="METRES",
                help="Leave out corners of polygons that change less than a square of this side; "
                "neighbours keep common borders. Twice the size of a pixel smooths its steps.",
            ),
            click.option(
                "--stac",
                is_flag=True,
                help="Also write NAME.stac.json: a STAC item of the map, for a catalogue.",
            ),
        ],
    },
)

resume_options = option_group(
    ResumeOptions,
    "resume",
    {
        "Resuming": [
            click.option(
                "--resume",
                is_flag=True,
                help="Continue an interrupted run in the output folder.",
            ),
            click.option(
                "--restart",
                is_flag=True,
                help="Begin anew although a run in the output folder is unfinished.",
            ),
        ],
    },
)

engine_options = option_group(
    EngineOptions,
    "engine",
    {
        "Engine": [
            click.option(
                "--backend",
                metavar="NAME",
                default="auto",
                show_default=True,
                help="onnxruntime, openvino, tensorrt, or auto for the fastest here.",
            ),
            click.option(
                "--device",
                type=click.Choice(["auto", *DEVICES]),
                default="auto",
                show_default=True,
                help="Device to run on; auto is the one the file needs. There is no silent "
                "fallback to another.",
            ),
            click.option(
                "--precision",
                type=click.Choice(["fp32", "bf16"]),
                help="Precision of floating-point operations on a CPU [default: fp32].",
            ),
            threads_option("physical cores"),
            click.option(
                "--trust-plan",
                is_flag=True,
                help="Skip the checksum, TensorRT-version and GPU checks of a plan.",
            ),
        ],
    },
)

executor_options = option_group(
    ExecutorOptions,
    "workers",
    {
        "Workers": [
            click.option(
                "--executor",
                metavar="NAME",
                default="local",
                show_default=True,
                help="Where blocks are computed: local, in this process; processes:N; "
                "dask:local:N; or dask:tls://HOST:PORT, on all workers of a Dask scheduler.",
            ),
            click.option(
                "--ship-model",
                is_flag=True,
                help="Send the model to Dask's workers, which otherwise read it from its path.",
            ),
            click.option(
                "--insecure",
                is_flag=True,
                help="Allow a scheduler on another machine without TLS (dask:tcp://HOST:PORT).",
            ),
        ],
    },
)
