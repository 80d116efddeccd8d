"""`mfnet-run`: options in, one call, a summary out."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import click

from mfnet_runtime.backends import RUNS
from mfnet_runtime.cli.read_options import RasterPathType, read_options
from mfnet_runtime.cli.run_options import (
    EngineOptions,
    engine_options,
    executor_options,
    resume_options,
    segment_options,
    vector_options,
)
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
from mfnet_runtime.network.upload import Bucket
from mfnet_runtime.network.url import RasterPath
from mfnet_runtime.run.executors.choose import ExecutorOptions
from mfnet_runtime.run.options import ResumeOptions, VectorOptions
from mfnet_runtime.scene.layouts import LAYOUTS, layout_in
from mfnet_runtime.scene.options import ReadOptions
from mfnet_runtime.tiling.options import SegmentOptions
from mfnet_runtime.version import installed_version

logger = logging.getLogger(__name__)

SCHEMA = "mfnet-run/1"  # of the JSON summary


@click.command("mfnet-run", cls=GroupedCommand)
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("scenes", type=RasterPathType(path_type=Path), required=False)
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    help="Output folder; for one scene also FOLDER/NAME.tif.",
)
@click.option(
    "--upload",
    metavar="s3://BUCKET/PREFIX",
    help="Copy each scene's finished files there, too; needs --allow-network s3://BUCKET.",
)
@click.option(
    "--dsm",
    type=RasterPathType(path_type=Path),
    help="DSM of one image, or folder of those of many.",
)
@click.option(
    "--dataset",
    type=click.Choice(list(LAYOUTS)),
    help="Published dataset in the folder SCENES [default: recognised by its files].",
)
@click.option(
    "--dsm-band",
    type=click.IntRange(min=1),
    help="Band with the heights: of the DSMs, or of the images if there are no DSMs.",
)
@click.option(
    "--assets",
    metavar="IMAGE,DSM",
    help="Keys of the assets of STAC items [default: by names and roles such as visual and dsm].",
)
@read_options(network=True)
@segment_options
@vector_options
@resume_options
@engine_options
@executor_options
@click.option(
    "--dry-run",
    is_flag=True,
    help="Estimate windows, memory, disk and time; write nothing.",
)
@click.option(
    "--check",
    is_flag=True,
    help="Report what a run would refuse and what looks odd; write nothing.",
)
@click.option("-q", "--quiet", is_flag=True, help="Show no progress.")
@only_option
@json_option
@debug_option
@click.version_option(package_name="mfnet")
def command(
    model: Path,
    scenes: RasterPath | None,
    out: Path | None,
    upload: str | None,
    dsm: RasterPath | None,
    dataset: str | None,
    dsm_band: int | None,
    assets: str | None,
    read: ReadOptions,
    options: SegmentOptions,
    vectors: VectorOptions,
    resume: ResumeOptions,
    engine: EngineOptions,
    workers: ExecutorOptions,
    dry_run: bool,
    check: bool,
    quiet: bool,
    only: tuple[str, ...],
    as_json: bool,
) -> int:
    """Segment SCENES with MODEL and write one class map per scene.

    SCENES is a folder with image/ and dsm/ holding rasters of equal stems; a folder of pairs such
    as NAME.tif and NAME_dsm.tif, or with ISPRS names; the folder of a published dataset; a folder
    of images, with the folder of their DSMs given by --dsm; a CSV file with the columns image, dsm
    and optionally name; a STAC item, NAME.json; or one image, with its DSM given by --dsm. Images,
    DSMs and items may be https:// or s3:// addresses, see --allow-network. Pixels without data in
    image or DSM become 255.

    `mfnet-run demo -o maps` runs a small model on a piece of a real scene, both part of mfnet.

    \b
    Examples:
      mfnet-run demo -o maps/
      mfnet-run best.onnx scenes/ --check
      mfnet-run best.onnx scenes/ -o maps/
      mfnet-run best.onnx ortho.tif --dsm heights.tif -o maps/ --stride 64
      mfnet-run best.onnx pairs.csv -o maps/ --align --aoi county.gpkg
      mfnet-run best.fp16.plan scenes/ -o maps/
      mfnet-run best.onnx pairs.csv -o maps/ --executor dask:tls://host:8786
      mfnet-run best.onnx https://host.org/item.json -o maps/ --allow-network host.org
    """
    from mfnet_runtime.preflight.estimate import estimate_scenes
    from mfnet_runtime.run.provenance import model_tags
    from mfnet_runtime.run.segment import segment_scenes
    from mfnet_runtime.scene.discovery import scenes_from
    from mfnet_runtime.tiling.pipeline import processor

    demo = scenes is None and str(model) == "demo"
    if demo:
        from mfnet_runtime.demo import MODEL, SCENE

        model, scenes, dsm = MODEL, SCENE.image, SCENE.dsm
        out = out / f"{SCENE.name}.tif" if out is not None else None
    if scenes is None:
        raise UsageError("no scenes; use mfnet-run MODEL SCENES -o OUT, or mfnet-run demo -o OUT")
    if model.is_dir() or scenes.suffix.lower() in {suffix for suffix, _ in RUNS}:
        raise UsageError(f"{scenes}: the model comes first; use mfnet-run {scenes} {model}")
    layout = LAYOUTS[dataset] if dataset else None
    if layout is None and dsm is None and dsm_band is None and isinstance(scenes, Path):
        layout = layout_in(scenes)
    if layout is not None:
        logger.info("%s: read as the %s dataset, without its labels", scenes, layout.name)
        read = layout.read_options(read)
    found = scenes_from(
        scenes,
        dsm,
        only=only,
        dsm_band=dsm_band,
        drivers=read.allow_driver,
        layout=layout,
        assets=assets.split(",") if assets else (),
        hosts=read.allow_network,
    )
    if out is not None and out.suffix.lower() == ".tif" and not out.is_dir():
        if len(found) > 1:
            raise UsageError(f"{out}: is one file for {len(found)} scenes; give a folder with -o")
        found, out = [replace(scene, name=out.stem) for scene in found], out.parent
    bucket = Bucket(upload, read.allow_network) if upload else None
    if check:
        from mfnet_runtime.preflight.check import check_scenes
        from mfnet_runtime.preflight.model import ModelRequest

        request = ModelRequest(
            model, engine.backend, engine.device, engine.trust_plan, engine.precision
        )
        return check_scenes(request, found, out, options, read, vectors, as_json, quiet)
    if out is None and not dry_run:
        raise UsageError("no output folder; give one with -o (--check and --dry-run need none)")
    if engine.trust_plan and workers.executor != "local":
        raise UsageError("--trust-plan is about this machine's plan; leave out --executor")
    started = time.perf_counter()
    times = engine.times_of(model)
    name = next(iter(times), engine.backend)
    with (
        (ExecutorOptions() if dry_run else workers).open(engine.threads or 0) as executor,
        engine.backend_for(model, name, options.batch) as backend,
    ):
        tags = model_tags(model)
        ran = {
            "schema": SCHEMA,
            "version": installed_version("mfnet"),
            "started": f"{datetime.now(timezone.utc):%Y-%m-%dT%H:%M:%SZ}",
            "model": model.name,
            "model_sha256": tags["MFNET_MODEL_SHA256"],
            "backend": backend.name,
            "ms_a_window": times,
            "precision": backend.precision,
            "device": backend.device,
            "preprocess": processor(backend, options),
            "threads": backend.threads,
        }
        logger.info("%s", _heading(ran))
        if dry_run or out is None:
            rows = estimate_scenes(backend, found, options, read)
        else:
            outcomes = segment_scenes(
                backend,
                found,
                out,
                options,
                read,
                vectors,
                resume=resume,
                tags=tags,
                quiet=quiet,
                executor=executor,
                bucket=bucket,
            )
            rows = [outcome.row for outcome in outcomes]
            if demo and rows[0]["status"] == "done":
                from mfnet_runtime.demo import write_picture

                write_picture(Path(rows[0]["output"]), out / "demo.png")
                logger.info("image, heights and classes side by side: %s", out / "demo.png")
    failed = sum(row["status"] == "failed" for row in rows)
    if as_json:
        seconds = round(time.perf_counter() - started, 2)
        say(json.dumps({**ran, "seconds": seconds, "failed": failed, "scenes": rows}))
    else:
        for row in rows:
            say(one_line(_sentence(row)))
    if failed:
        others = "" if failed == len(rows) else "; the others are valid"
        logger.info("%d of %d scenes failed%s", failed, len(rows), others)
    return SceneError.exit_code if failed else 0


def _heading(ran: dict[str, Any]) -> str:
    text = f"{ran['model']} in {ran['precision']} on {ran['device']}"
    text += f", threads {ran['threads']}" if ran["threads"] else ""
    times = ", ".join(f"{name} {value:.3g}" for name, value in ran["ms_a_window"].items())
    return f"{text} ({times} ms a window)" if times else text


def _sentence(row: dict[str, Any]) -> str:
    if row["status"] == "failed":
        return f"{row['scene']}: failed"
    if row["status"] == "estimated":
        read = row["resampled"]
        size = f"{row['width']} x {row['height']} px"
        if read:
            size += f" read as {read['width']} x {read['height']} px"
        return (
            f"{row['scene']}: {size}, {row['windows']} windows in "
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
    if row.get("uploaded"):
        text += f"; uploaded to {row['uploaded'][0]}"
    if row["resumed"]:
        text += "; done before"
    if row["dsm_constant"]:
        text += "; warning: the DSM is constant or empty, the network gets no heights"
    return text


def main(args: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run_command(command, args)
