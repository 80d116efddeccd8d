"""`mfnet-bench`: accuracy of models on labelled scenes, and pictures of what they see."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from mfnet_runtime.console import (
    debug_option,
    json_option,
    only_option,
    run_command,
    threads_option,
)
from mfnet_runtime.tiling.options import BLENDS, DEFAULT_BLEND

PATH = click.Path(path_type=Path)


@click.group("mfnet-bench")
@click.version_option(package_name="mfnet")
def command() -> None:
    """Measure models and show what they see."""


@command.command("miou")
@click.argument("models", nargs=-1, required=True, type=PATH)
@click.argument("scenes", type=PATH)
@click.option("--dataset", help="Official layout of SCENES: vaihingen, potsdam or mmhunan.")
@click.option("--mean-over", help="Class indices the means are taken over, for example 0,1,2.")
@click.option("--paper", is_flag=True, help="The published protocol: stride, sum, classes.")
@click.option("--stride", type=int, help="Pixels between windows [default: half a window].")
@click.option("--blend", type=click.Choice(BLENDS), help=f"[default: {DEFAULT_BLEND}]")
@click.option("--batch", type=int, default=4, show_default=True, help="Windows a call.")
@threads_option("the backend's own")
@click.option("--bands", help="Image bands to use [default: 1,2,3].")
@click.option("-o", "--out", type=PATH, help="Folder for miou.json and miou.csv.")
@only_option
@json_option
@debug_option
def miou(out: Path | None, as_json: bool, **asked: Any) -> None:
    """Score MODELS, checkpoints or exported files, on SCENES, a folder image/ dsm/ label/.

    OA, kappa, and IoU, F1 and recall of each class, from one confusion matrix over all scenes;
    and the share of pixels on which each model agrees with the first.

    \b
    Examples:
      mfnet-bench miou best.pt best.onnx scenes/
      mfnet-bench miou best.onnx Vaihingen/ --dataset vaihingen --paper
    """
    from mfnet_bench.accuracy.miou import MiouRequest, scored_models, summary_table, write_results
    from mfnet_runtime.console import parse_bands

    asked["bands"] = parse_bands(asked["bands"]) if asked["bands"] else None
    classes, rows = scored_models(MiouRequest(**asked))
    if as_json:
        click.echo(json.dumps([row.to_dict(classes) for row in rows]))
    else:
        click.echo(summary_table(classes, rows))
    if out is not None:  # last: what was measured is shown even if the disk is full
        write_results(out, classes, rows)


@command.command("sweep")
@click.argument("model", type=PATH)
@click.argument("scenes", type=PATH)
@click.option("--dataset", help="Official layout of SCENES: vaihingen, potsdam or mmhunan.")
@click.option(
    "--strides",
    help="Pixels between windows [default: eighths of the window; 32,64,96,128,192,256 of 256].",
)
@click.option("--blends", default=",".join(BLENDS), show_default=True, help="Blendings to try.")
@click.option("--mean-over", help="Class indices the means are taken over, for example 0,1,2.")
@click.option("--batch", type=int, default=4, show_default=True, help="Windows a call.")
@click.option("--backend", default="auto", show_default=True, help="What runs the model.")
@threads_option("the backend's own")
@click.option("--rounds", type=int, default=1, show_default=True, help="Runs of each; median time.")
@click.option("-o", "--out", type=PATH, help="Folder for sweep.csv, sweep.json and sweep.png.")
@only_option
@json_option
@debug_option
def sweep(out: Path | None, as_json: bool, **asked: Any) -> None:
    """Run MODEL on SCENES, a folder image/ dsm/ label/, at several strides and blendings.

    Time, mIoU, mF1 and OA of each, and against the published protocol (stride 32, uniform):
    points of mIoU, share of pixels of the same class, speed-up.

    \b
    Examples:
      mfnet-bench sweep best.onnx scenes/ -o sweep/
      mfnet-bench sweep best.onnx Vaihingen/ --dataset vaihingen --strides 128,256
    """
    from mfnet_bench.accuracy.sweep import SweepRequest, swept
    from mfnet_bench.accuracy.sweep_report import sweep_table, write_sweep

    result = swept(SweepRequest(**asked))
    click.echo(json.dumps(result.to_dict()) if as_json else sweep_table(result))
    if out is not None:  # last: what was measured is shown even if the disk is full
        write_sweep(out, result)


@command.command("latency")
@click.argument("models", nargs=-1, required=True, type=PATH)
@click.option(
    "--baseline",
    "baselines",
    multiple=True,
    type=PATH,
    metavar="CKPT",
    help="Checkpoint the models were exported from; repeatable [default: beside them].",
)
@click.option("--backends", default="onnxruntime,openvino", show_default=True)
@click.option("--precisions", default="fp32,bf16", show_default=True)
@click.option("--batches", default="1,2,4", show_default=True, help="Windows a call.")
@click.option("--rounds", type=int, default=5, show_default=True, help="Turns of every engine.")
@click.option(
    "--scenes", type=PATH, help="Folder of scenes to compare classes on [default: drawn]."
)
@click.option("--windows", type=int, default=4, show_default=True, help="Of the scenes.")
@click.option(
    "--baseline-batch", type=int, help="Windows a call in PyTorch [default: its fastest]."
)
@click.option(
    "--compile/--no-compile",
    "compiled",
    default=True,
    show_default=True,
    help="torch.compile as a further baseline.",
)
@threads_option("one a core")
@click.option("-o", "--out", type=PATH, help="Folder for latency.csv, a JSON and latency.png.")
@json_option
@debug_option
def latency(
    out: Path | None, as_json: bool, backends: str, precisions: str, batches: str, **asked: Any
) -> None:
    """Time MODELS, exported files, against their checkpoint in PyTorch, in interleaved rounds.

    Every engine runs in a process of its own. Ratios are medians over the rounds; the ceiling is
    the fastest matrix product of the same precision, measured in the same rounds.

    \b
    Examples:
      mfnet-bench latency best.onnx
      mfnet-bench latency lora.onnx lora.int8.onnx adapter.onnx --scenes scenes/ -o results/
    """
    from mfnet_bench.latency.report import latency_table, require_appendable, write_latency
    from mfnet_bench.latency.request import LatencyRequest, parse_list, parse_sizes
    from mfnet_bench.latency.run import measured

    request = LatencyRequest(
        backends=parse_list(backends),
        precisions=parse_list(precisions),
        batches=parse_sizes(batches),
        **asked,
    )
    if out is not None:
        require_appendable(out)
    run = measured(request, lambda note: click.echo(note, err=True))
    if as_json:
        click.echo(json.dumps(run.to_dict()))
    else:
        click.echo(latency_table(run.rows))
    if out is not None:  # last: what was measured is shown even if the disk is full
        write_latency(out, run)


@command.command("throughput")
@click.option("--size", type=int, default=10_000, show_default=True, help="Pixels a side.")
@click.option("--stride", type=int, default=256, show_default=True, help="Pixels between windows.")
@click.option("--rounds", type=int, default=3, show_default=True, help="Runs; medians count.")
@json_option
@debug_option
def throughput(as_json: bool, **asked: int) -> None:
    """Time mfnet-run with a stub for the network, on a scene drawn into a temporary folder.

    Million pixels a second from the opened rasters to the verified class map, and which shares of
    the time the pass over the heights, pixels to classes, and files take.

    \b
    Example:
      mfnet-bench throughput --size 4000
    """
    from mfnet_bench.throughput import measured

    result = measured(**asked)
    click.echo(json.dumps(asdict(result)) if as_json else result.sentence())


@command.command("table")
@click.argument("results", type=PATH)
@click.option("--into", type=PATH, help="A document whose table to replace, between its marks.")
@debug_option
def table(results: Path, into: Path | None) -> None:
    """The table of the newest latencies in RESULTS, a folder with latency.csv.

    \b
    Example:
      mfnet-bench table benchmarks/results/latency --into README.md
    """
    from mfnet_bench.latency.summary import MARK, summary_from_folder
    from mfnet_bench.table import update_document

    found = summary_from_folder(results)
    if into is None:
        click.echo(found)
    else:
        update_document(into, found, MARK)


@command.command("picture")
@click.argument("image", type=PATH)
@click.argument("dsm", type=PATH)
@click.argument("classmap", type=PATH)
@click.argument("label", type=PATH, required=False)
@click.option("-o", "--out", type=PATH, required=True, help="A PNG.")
@debug_option
def picture(image: Path, dsm: Path, classmap: Path, label: Path | None, out: Path) -> None:
    """Draw IMAGE, DSM, CLASSMAP and, where given, LABEL side by side.

    \b
    Example:
      mfnet-bench picture scenes/image/a.tif scenes/dsm/a.tif maps/a.tif -o a.png
    """
    from mfnet_bench.picture import draw_picture

    draw_picture(image, dsm, classmap, label, out)
    click.echo(str(out))


def main(args: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run_command(command, args)
