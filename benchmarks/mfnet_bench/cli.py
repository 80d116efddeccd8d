"""`mfnet-bench`: accuracy and speed of models, and pictures of what they see."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import click

from mfnet_runtime.cli.read_options import allow_driver_option, read_options
from mfnet_runtime.console import (
    GroupedCommand,
    debug_option,
    json_option,
    only_option,
    run_command,
    say,
    threads_option,
)
from mfnet_runtime.errors import UsageError
from mfnet_runtime.raster.limits import PLAIN_DRIVERS, RasterLimits
from mfnet_runtime.tiling.options import BLENDS, DEFAULT_BLEND

F = TypeVar("F", bound=Callable[..., Any])
PATH = click.Path(path_type=Path)


def _words(context: click.Context, parameter: click.Parameter, text: str | None) -> tuple[str, ...]:
    """Split an option's value at its commas; each word once."""
    parts = (part.strip() for part in (text or "").split(","))
    return tuple(dict.fromkeys(part for part in parts if part))


def _numbers(
    context: click.Context, parameter: click.Parameter, text: str | None
) -> tuple[int, ...]:
    """Split an option's value into whole numbers.

    Raises:
        UsageError: It holds something else.
    """
    try:
        return tuple(int(word) for word in _words(context, parameter, text))
    except ValueError:
        raise UsageError(
            f"{parameter.opts[-1]} {text!r}: expected whole numbers, for example 64,128"
        ) from None


def _list_option(name: str, field: str, split: Callable[..., Any], help: str) -> Callable[[F], F]:
    return click.option(name, field, callback=split, metavar="A,B,...", help=help)


@click.group("mfnet-bench")
@click.version_option(package_name="mfnet")
def command() -> None:
    """Measure models and show what they see."""


@command.command("miou", cls=GroupedCommand)
@click.argument("models", nargs=-1, required=True, type=PATH)
@click.argument("scenes", type=PATH)
@click.option("--dataset", help="Official layout of SCENES: vaihingen, potsdam or mmhunan.")
@_list_option("--mean-over", "mean_over", _numbers, "Class indices of the means [default: all].")
@click.option("--paper", is_flag=True, help="The published protocol: stride, sum, classes.")
@_list_option("--stride", "strides", _numbers, "Pixels between windows [default: half a window].")
@_list_option(
    "--blend", "blends", _words, f"Some of {', '.join(BLENDS)} [default: {DEFAULT_BLEND}]."
)
@click.option("--batch", type=int, default=4, show_default=True, help="Windows per call.")
@click.option("--backend", default="auto", show_default=True, help="What runs the models.")
@threads_option("the backend's own")
@click.option("--rounds", type=int, default=1, show_default=True, help="Runs of each; median time.")
@read_options(PLAIN_DRIVERS[1:])
@click.option("-o", "--out", type=PATH, help="Folder for miou.json, miou.csv and a plot.")
@only_option
@json_option
@debug_option
def miou(out: Path | None, as_json: bool, **asked: Any) -> None:
    """Score MODELS, checkpoints or exported files, on SCENES, a folder image/ dsm/ label/.

    OA, kappa, IoU, F1 and recall of each class come from one confusion matrix over all scenes.
    Several strides or blendings are compared by time and mIoU; the first model at the first of
    them is what the others agree with or are faster than.

    \b
    Examples:
      mfnet-bench miou best.pt best.onnx scenes/
      mfnet-bench miou best.onnx Vaihingen/ --dataset vaihingen --paper
      mfnet-bench miou best.onnx scenes/ --stride 32,64,128 --blend uniform,hann -o sweep/
    """
    from mfnet_bench.accuracy.report import accuracy_table, write_accuracy
    from mfnet_bench.accuracy.score import AccuracyRequest, score_models

    classes, rows = score_models(AccuracyRequest(**asked))
    if as_json:
        say(json.dumps([row.to_dict(classes) for row in rows]))
    else:
        say(accuracy_table(classes, rows))
    if out is not None:  # last: results are shown even if the disk is full
        write_accuracy(out, classes, rows)


@command.command("latency", cls=GroupedCommand)
@click.argument("models", nargs=-1, required=True, type=PATH)
@click.option(
    "--baseline",
    "baselines",
    multiple=True,
    type=PATH,
    metavar="CKPT",
    help="Checkpoint the models were exported from; repeatable [default: beside them].",
)
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@_list_option(
    "--backends",
    "backends",
    _words,
    "[default: onnxruntime,openvino; on a GPU tensorrt,onnxruntime]",
)
@_list_option("--precisions", "precisions", _words, "On a CPU [default: fp32,bf16].")
@click.option(
    "--batches", callback=_numbers, default="1,2,4", show_default=True, help="Windows per call."
)
@click.option("--rounds", type=int, default=5, show_default=True, help="Turns of every engine.")
@click.option(
    "--scenes", type=PATH, help="Folder of scenes to compare classes on [default: synthetic]."
)
@click.option("--windows", type=int, default=4, show_default=True, help="Windows of the scenes.")
@read_options(PLAIN_DRIVERS[1:])
@click.option(
    "--baseline-batch", type=int, help="Windows per call in PyTorch [default: its fastest]."
)
@click.option(
    "--compile/--no-compile",
    "compiled",
    default=True,
    show_default=True,
    help="torch.compile as a further baseline.",
)
@click.option("--plan-python", metavar="PYTHON", help="For plans: a Python that has TensorRT.")
@threads_option("one per core")
@click.option("-o", "--out", type=PATH, help="Folder for latency.csv, a JSON and latency.png.")
@json_option
@debug_option
def latency(out: Path | None, as_json: bool, **asked: Any) -> None:
    """Time MODELS, exported files, against their checkpoint in PyTorch, in interleaved rounds.

    Every engine runs in a process of its own. Ratios are medians over the rounds; the ceiling is
    the fastest matrix product of the same precision, measured in the same rounds. On a GPU the
    data lie in its memory, except for ONNX Runtime, which copies.

    \b
    Examples:
      mfnet-bench latency best.onnx
      mfnet-bench latency lora.onnx lora.int8.onnx adapter.onnx --scenes scenes/ -o results/
      mfnet-bench latency best.fp16.plan best.fp16.onnx --device cuda --batches 1,8,16
    """
    from mfnet_bench.latency.report import latency_table, require_appendable, write_latency
    from mfnet_bench.latency.request import LatencyRequest
    from mfnet_bench.latency.run import measure

    asked = {name: value for name, value in asked.items() if value is not None}
    request = LatencyRequest(**asked)
    if out is not None:
        require_appendable(out)
    run = measure(request)
    say(json.dumps(run.to_dict()) if as_json else latency_table(run.rows))
    if out is not None:  # last: results are shown even if the disk is full
        write_latency(out, run)


@command.command("throughput")
@click.option("--size", type=int, default=10_000, show_default=True, help="Pixels a side.")
@click.option("--stride", type=int, default=256, show_default=True, help="Pixels between windows.")
@click.option("--rounds", type=int, default=3, show_default=True, help="Runs; median time.")
@json_option
@debug_option
def throughput(as_json: bool, **asked: int) -> None:
    """Time mfnet-run with a stub for the network, on a scene drawn into a temporary folder.

    Million pixels per second from the opened rasters to the verified class map, and the shares of
    the time for the range of heights, for pixels to classes, and for files.

    \b
    Example:
      mfnet-bench throughput --size 4000
    """
    from mfnet_bench.throughput import measure

    result = measure(**asked)
    say(json.dumps(asdict(result)) if as_json else result.sentence())


@command.command("table")
@click.argument("results", type=PATH)
@click.option("--into", type=PATH, help="Document whose table to replace, between its marks.")
@click.option("--mark", default="latency", show_default=True, help="The name in the marks.")
@debug_option
def table(results: Path, into: Path | None, mark: str) -> None:
    """Print the table of the newest latencies in RESULTS, a folder with latency.csv.

    \b
    Example:
      mfnet-bench table benchmarks/results/latency --into benchmarks/README.md
    """
    from mfnet_bench.latency.report import summary_from_folder
    from mfnet_bench.table import update_document

    found = summary_from_folder(results)
    if into is None:
        say(found)
    else:
        update_document(into, found, mark)


@command.command("picture")
@click.argument("image", type=PATH)
@click.argument("dsm", type=PATH)
@click.argument("classmap", type=PATH)
@click.argument("label", type=PATH, required=False)
@click.option("-o", "--out", type=PATH, required=True, help="A PNG.")
@allow_driver_option
@debug_option
def picture(
    image: Path,
    dsm: Path,
    classmap: Path,
    label: Path | None,
    out: Path,
    allow_driver: tuple[str, ...],
) -> None:
    """Draw IMAGE, DSM, CLASSMAP and, if given, LABEL side by side.

    \b
    Example:
      mfnet-bench picture scenes/image/a.tif scenes/dsm/a.tif maps/a.tif -o a.png
    """
    from mfnet_bench.picture import draw_picture

    limits = RasterLimits((*PLAIN_DRIVERS, *allow_driver))
    draw_picture(image, dsm, classmap, label, out, limits)
    say(str(out))


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    return run_command(command, args)
