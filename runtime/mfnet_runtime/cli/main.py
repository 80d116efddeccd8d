"""`mfnet-run`: options in, one call, a summary out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from mfnet_runtime.cli.engine_options import EngineWords, engine_options
from mfnet_runtime.cli.output_options import OutputWords, output_options
from mfnet_runtime.cli.read_options import ReadWords, read_options
from mfnet_runtime.cli.resume_options import ResumeWords, resume_options
from mfnet_runtime.cli.walk_options import WalkWords, walk_options
from mfnet_runtime.console import (
    GroupedCommand,
    debug_option,
    json_option,
    one_line,
    only_option,
    run_command,
    say,
)
from mfnet_runtime.errors import SceneError, UsageError


@click.command("mfnet-run", cls=GroupedCommand)
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("scenes", type=click.Path(path_type=Path))
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Output folder.")
@read_options
@walk_options
@output_options
@resume_options
@engine_options
@click.option(
    "--dry-run",
    is_flag=True,
    help="Estimate windows, memory, disk and time; write nothing.",
)
@click.option(
    "--check",
    is_flag=True,
    help="Examine model and data: what a run would refuse, and what is odd; write nothing.",
)
@click.option("-q", "--quiet", is_flag=True, help="No progress bar.")
@only_option
@json_option
@debug_option
@click.version_option(package_name="mfnet")
def command(
    model: Path,
    scenes: Path,
    out: Path | None,
    reading: ReadWords,
    output: OutputWords,
    resuming: ResumeWords,
    walk: WalkWords,
    engine: EngineWords,
    dry_run: bool,
    check: bool,
    quiet: bool,
    only: tuple[str, ...],
    as_json: bool,
) -> int:
    """Segment SCENES with MODEL and write one class map a scene.

    SCENES is a folder with image/ and dsm/ holding rasters of equal stems; or one of pairs such as
    NAME.tif, NAME_dsm.tif, or by ISPRS names; or a folder of images given together with the folder
    of their DSMs (--dsm); or a CSV file with the columns image, dsm and, if need be, name; or one
    image given together with --dsm. Pixels without data in image or DSM come out as 255.

    \b
    Examples:
      mfnet-run best.onnx scenes/ --check
      mfnet-run best.onnx scenes/ -o maps/
      mfnet-run best.onnx ortho.tif --dsm heights.tif -o maps/ --stride 64
      mfnet-run best.onnx pairs.csv -o maps/ --align --aoi county.gpkg
      mfnet-run best.fp16.plan scenes/ -o maps/
    """
    from mfnet_runtime.preflight.estimate import estimate_scenes
    from mfnet_runtime.run.provenance import model_tags
    from mfnet_runtime.run.segment import segment_scenes
    from mfnet_runtime.scene.discovery import scenes_from
    from mfnet_runtime.tiling.pipeline import SegmentOptions, processor

    options = SegmentOptions(
        walk.stride,
        walk.blend,
        engine.batch_size(),
        engine.preprocess,
        walk.protocol,
        reading.dsm_range,
        output.confidence,
        output.probabilities,
        max_memory=engine.memory(),
    )
    vectors = output.vector_options()
    found = scenes_from(scenes, reading.dsm, only=only, dsm_band=reading.dsm_band)
    read = reading.options()
    if check:
        from mfnet_runtime.preflight.check import check_scenes
        from mfnet_runtime.preflight.model import ModelRequest

        request = ModelRequest(
            model, engine.backend, engine.device, engine.trust_plan, engine.precision
        )
        return check_scenes(request, found, out, options, read, vectors, as_json, quiet)
    if out is None:
        raise UsageError("-o says where the outputs go; only --check needs none")
    with engine.backend_of(model) as backend:
        ran = {
            "model": model.name,
            "backend": backend.name,
            "precision": backend.precision,
            "device": backend.device,
            "preprocess": processor(backend, options),
            "threads": backend.threads,
        }
        click.echo(_heading(ran), err=True)
        if dry_run:
            rows = estimate_scenes(backend, found, options, read)
        else:
            outcomes = segment_scenes(
                backend,
                found,
                out,
                options,
                read,
                vectors,
                resume=resuming.options(),
                tags=model_tags(model),
                quiet=quiet,
            )
            rows = [outcome.row for outcome in outcomes]
    failed = sum(row["status"] == "failed" for row in rows)
    if as_json:
        say(json.dumps({**ran, "failed": failed, "scenes": rows}))
    else:
        for row in rows:
            say(one_line(_sentence(row)))
    if failed:
        others = "" if failed == len(rows) else "; the others are valid"
        click.echo(f"{failed} of {len(rows)} scenes failed{others}", err=True)
    return SceneError.exit_code if failed else 0


def _heading(ran: dict[str, Any]) -> str:
    text = f"{ran['model']} in {ran['precision']} on {ran['device']}"
    return f"{text}, threads {ran['threads']}" if ran["threads"] else text


def _sentence(row: dict[str, Any]) -> str:
    if row["status"] == "failed":
        return f"{row['scene']}: failed"
    if row["status"] == "shared":
        return f"{row['scene']}: what is left of it is another shard's; the last one writes the map"
    if row["status"] == "estimated":
        return (
            f"{row['scene']}: {row['height']} x {row['width']} px, {row['windows']} windows in "
            f"{row['blocks']} block{'s' * (row['blocks'] > 1)}; at most "
            f"{row['memory_bytes'] / (1 << 20):.0f} MiB of memory for pixels, "
            f"{row['disk_bytes'] / (1 << 20):.0f} MiB of disk, {row['backend_s']:.1f} s in the "
            "backend"
        )
    total = row["valid_pixels"] + row["nodata_pixels"]
    shares = ", ".join(
        f"{name} {count / max(row['valid_pixels'], 1):.1%}"
        for name, count in row["class_pixels"].items()
    )
    text = (
        f"{row['scene']}: {row['output']}  {row['windows']} windows in {row['total_s']:.1f} s "
        f"({row['backend_s'] / max(row['total_s'], 1e-9):.0%} in the backend); {shares}"
    )
    if row["nodata_pixels"]:
        text += f"; nodata {row['nodata_pixels'] / total:.1%}"
    if row["resumed"]:
        text += "; it was done before"
    if row["dsm_constant"]:
        text += "; warning: the DSM is constant or empty, the network saw no heights"
    return text


def main(args: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run_command(command, args)
