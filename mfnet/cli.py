"""`mfnet-train`: options in, one call, checkpoints out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from mfnet.training.options import TrainConfig, TrainRequest
from mfnet_runtime.console import (
    debug_option,
    only_option,
    parse_bands,
    run_command,
    say,
    threads_option,
)
from mfnet_runtime.contract import DsmRule

PATH = click.Path(path_type=Path)


@click.command("mfnet-train")
@click.argument("data", type=PATH)
@click.option("-o", "--out", type=PATH, required=True, help="Folder of the run.")
@click.option("--dataset", help="Official layout: vaihingen, potsdam or mmhunan.")
@click.option("--classes", type=PATH, help="classes.json [default: the one in DATA, or numbers].")
@click.option("--val", "validation", type=PATH, help="Scenes to choose the best epoch by.")
@click.option("--holdout", default=0.2, show_default=True, help="Without --val: share of rows.")
@click.option("--backbone", default="vit_b", show_default=True, help="vit_b|l|h, small, tiny.")
@click.option("--tuning", default="lora", show_default=True, help="lora, adapter or none.")
@click.option("--rank", default=4, show_default=True, help="Of LoRA.")
@click.option("--window", default=256, show_default=True, help="Pixels a side, times 32.")
@click.option("--sam", type=PATH, help="SAM's weights, for example sam_vit_b_01ec64.pth.")
@click.option("--from-scratch", is_flag=True, help="Train everything, without SAM's weights.")
@click.option("--zero-rel-pos", is_flag=True, help="Zero SAM's relative positions, as published.")
@click.option("--epochs", type=int, default=50, show_default=True)
@click.option("--steps", type=int, help="Batches an epoch [default: the dataset's, 1000].")
@click.option("--batch", type=int, help="Windows a batch [default: 10, vit_h 4].")
@click.option("--optimizer", default="sgd", show_default=True, help="sgd or adamw.")
@click.option("--schedule", help="multistep or cosine [default: by the optimizer].")
@click.option("--lr", type=float, help="[default: sgd 0.01, adamw 0.001]")
@click.option("--weight-decay", default=5e-4, show_default=True)
@click.option("--clip", default=0.0, help="Largest gradient norm [default: no clipping].")
@click.option("--class-weights", default="none", show_default=True, help="none, balanced, 1,2,..")
@click.option("--no-flips", is_flag=True, help="No random flips.")
@click.option("--rotations", is_flag=True, help="Random quarter turns too.")
@click.option("--jitter", default=0.0, help="Random gain and offset of image and DSM, a share.")
@click.option("--seed", default=0, show_default=True)
@click.option("--stride", type=int, help="Pixels between validation windows.")
@click.option(
    "--dsm-rule",
    type=(str, float, float),
    help="scene_percentile LOW HIGH, or range LOW HIGH in metres [default: scene_minmax].",
)
@click.option("--full-scale", type=float, help="Pixel value that becomes 1.0 [default: uint8's].")
@click.option("--bands", default="1,2,3", show_default=True, help="Image bands to use.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
@threads_option("PyTorch's")
@click.option("--float32", is_flag=True, help="No mixed precision on CUDA.")
@click.option("--resume", is_flag=True, help="Go on with the run in OUT.")
@only_option
@debug_option
@click.version_option(package_name="mfnet")
def command(**asked: Any) -> None:
    """Train MFNet on DATA, a folder image/ dsm/ label/ of rasters with equal stems.

    The defaults are the paper's recipe. OUT gets best.pt, the epoch of the best validation mIoU,
    last.pt to resume from, and metrics.csv and .json.

    \b
    Examples:
      mfnet-train scenes/ -o runs/a --sam sam_vit_b_01ec64.pth
      mfnet-train Vaihingen/ --dataset vaihingen -o runs/v --backbone vit_l --sam sam_vit_l_0b3195.pth
      mfnet-train scenes/ -o runs/b --from-scratch --backbone small --optimizer adamw
    """  # noqa: E501 (a command must be on one line to be copied)
    import torch

    from mfnet.training.prepare import prepare_training
    from mfnet.training.run_directory import RunDirectory

    if asked["threads"]:
        torch.set_num_threads(asked["threads"])
    directory = RunDirectory(asked["out"])
    directory.check(asked["resume"])
    trainer = prepare_training(_request(asked))
    trainer.train(asked["resume"])
    say(f"best validation mIoU {trainer.best:.4f}: {directory.best}")
    say(f"next: mfnet-export --ckpt {directory.best}")


def _request(asked: dict[str, Any]) -> Any:
    """The request that the options make; an option not given leaves the default of its field."""
    sgd = asked["optimizer"] == "sgd"
    values = {
        "schedule": "multistep" if sgd else "cosine",
        "lr": 0.01 if sgd else 0.001,
        "batch": 4 if asked["backbone"] == "vit_h" else 10,
        **{name: value for name, value in asked.items() if value is not None},
        "flips": not asked["no_flips"],
        "mixed_precision": not asked["float32"],
        "bands": parse_bands(asked["bands"]),
        "dsm_rule": DsmRule(*(asked["dsm_rule"] or ())),
    }

    def chosen(kind: Any) -> dict[str, Any]:
        return {field.name: values[field.name] for field in fields(kind) if field.name in values}

    return TrainRequest(recipe=TrainConfig(**chosen(TrainConfig)), **chosen(TrainRequest))


def main(args: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run_command(command, args)
