"""`mfnet-train`: train MFNet and write checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from mfnet.training.options import RECIPE_DEFAULTS, RECIPES, TrainConfig, TrainRequest
from mfnet_runtime.cli.read_options import read_options
from mfnet_runtime.console import (
    GroupedCommand,
    debug_option,
    only_option,
    option_group,
    run_command,
    say,
    threads_option,
)
from mfnet_runtime.contract import DsmRule
from mfnet_runtime.raster.limits import PLAIN_DRIVERS
from mfnet_runtime.scene.options import ReadOptions

PATH = click.Path(path_type=Path)


def _option(name: str, options: Any, text: str, **more: Any) -> Any:
    """Return an option whose default is the one of its field in a dataclass."""
    field = options.__dataclass_fields__[name.removeprefix("--").replace("-", "_")]
    return click.option(name, default=field.default, show_default=True, help=text, **more)


REQUEST = {
    "Data": [
        click.argument("data", type=PATH),
        click.option("-o", "--out", type=PATH, required=True, help="Folder for the run."),
        click.option("--dataset", help="Official layout: vaihingen, potsdam or mmhunan."),
        click.option(
            "--classes", type=PATH, help="classes.json [default: DATA/classes.json, or numbers]."
        ),
        click.option("--allow-odd-labels", is_flag=True, help="Train although labels look wrong."),
        only_option,
        click.option("--val", "validation", type=PATH, help="Scenes that decide the best epoch."),
        _option("--holdout", TrainRequest, "Share of rows to validate on without --val."),
        click.option(
            "--full-scale",
            type=float,
            help="Pixel value that becomes 1.0 [default: 255 for uint8].",
        ),
        click.option(
            "--dsm-rule",
            type=(str, float, float),
            callback=lambda context, option, given: DsmRule(*(given or ())),
            help="Scaling of heights: scene_percentile LOW HIGH, or range LOW HIGH in metres "
            "[default: scene_minmax].",
        ),
    ],
    "Network": [
        _option("--backbone", TrainRequest, "Size: vit_b, vit_l, vit_h, small or tiny."),
        _option("--tuning", TrainRequest, "Fine-tuning mechanism: lora, adapter or none."),
        _option("--rank", TrainRequest, "Rank of the LoRA matrices."),
        _option("--window", TrainRequest, "Pixels per side, a multiple of 32."),
        click.option("--sam", type=PATH, help="SAM's weights, such as sam_vit_b_01ec64.pth."),
        click.option("--init", type=PATH, help="Checkpoint to start from instead, also official."),
        click.option("--from-scratch", is_flag=True, help="Train everything, without SAM."),
        click.option(
            "--zero-rel-pos", is_flag=True, help="Zero SAM's relative positions, as published."
        ),
    ],
    "Batches and device": [
        click.option("--steps", type=int, help="Batches per epoch [default: the dataset's, 1000]."),
        click.option("--batch", type=int, help="Windows per batch [default: 10, for vit_h 4]."),
        click.option("--stride", type=int, help="Pixels between validation windows."),
        _option("--device", TrainRequest, "auto, cpu or cuda."),
    ],
}


def _set_defaults(context: click.Context, option: click.Parameter, name: str) -> str:
    """Let a recipe change the defaults of options that are read after it."""
    context.default_map = {**(context.default_map or {}), **RECIPE_DEFAULTS.get(name, {})}
    return name


RECIPE = {
    "Recipe": [
        click.option(
            "--recipe",
            type=click.Choice(RECIPES),
            default="default",
            show_default=True,
            is_eager=True,
            callback=_set_defaults,
            help="paper: the published code to the letter, see docs/TRAINING.md.",
        ),
        _option("--epochs", TrainConfig, "Number of epochs."),
        _option("--optimizer", TrainConfig, "sgd or adamw."),
        click.option("--schedule", help="multistep or cosine [default: sgd multistep]."),
        click.option("--lr", type=float, help="Learning rate [default: sgd 0.01, adamw 0.001]."),
        _option("--weight-decay", TrainConfig, "Weight decay."),
        click.option("--clip", default=0.0, help="Largest gradient norm [default: no clipping]."),
        _option("--class-weights", TrainConfig, "none, balanced, or numbers: 1,2,..."),
        click.option(
            "--no-flips", "flips", flag_value=False, default=True, help="No random flips."
        ),
        click.option("--rotations", is_flag=True, help="Add random quarter turns."),
        click.option("--jitter", default=0.0, help="Random gain and offset of image and DSM."),
        _option("--seed", TrainConfig, "Seed of everything random."),
        click.option(
            "--float32",
            "mixed_precision",
            flag_value=False,
            default=True,
            help="No mixed precision on CUDA.",
        ),
    ],
}


@click.command("mfnet-train", cls=GroupedCommand)
@option_group(TrainRequest, "request", REQUEST)
@read_options(PLAIN_DRIVERS[1:])
@option_group(TrainConfig.with_defaults, "recipe", RECIPE)
@threads_option("PyTorch's")
@click.option("--resume", is_flag=True, help="Continue the run in OUT.")
@debug_option
@click.version_option(package_name="mfnet")
def command(
    request: TrainRequest,
    read: ReadOptions,
    recipe: TrainConfig,
    threads: int | None,
    resume: bool,
) -> None:
    """Train MFNet on DATA, a folder image/ dsm/ label/ of rasters with equal stems.

    The defaults are the paper's recipe. OUT receives best.pt, the epoch with the best validation
    mIoU, last.pt to resume from, and metrics.csv and metrics.json.

    \b
    Examples:
      mfnet-train scenes/ -o runs/a --sam sam_vit_b_01ec64.pth
      mfnet-train Vaihingen/ --dataset vaihingen -o runs/v --backbone vit_l --sam sam_vit_l_0b3195.pth
      mfnet-train town/ -o runs/t --init runs/a/best.pt
      mfnet-train scenes/ -o runs/b --from-scratch --backbone small --optimizer adamw
    """  # noqa: E501 (a command must be on one line to be copied)
    import torch

    from mfnet.training.prepare import prepare_training
    from mfnet.training.run_directory import RunDirectory

    if threads:
        torch.set_num_threads(threads)
    directory = RunDirectory(request.out)
    directory.check(resume)
    trainer = prepare_training(request, recipe, read)
    trainer.train(resume)
    say(f"best validation mIoU {trainer.best:.4f}: {directory.best}")
    say(f"next: mfnet-export --ckpt {directory.best}")


def main(args: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(command, args)
