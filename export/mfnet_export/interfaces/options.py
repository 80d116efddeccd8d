"""Options of `mfnet-export --for`."""

from __future__ import annotations

from dataclasses import dataclass

import click

from mfnet_export.options import require_unset
from mfnet_runtime.console import option_group

HEADING = "Other programs"  # in the help
NAMES = ("deepness", "triton", "stac", "huggingface")  # each a module of this package


@dataclass(frozen=True)
class InterfaceOptions:
    """Programs to write a model for, and how."""

    names: tuple[str, ...] = ()  # of NAMES
    pixel_size: float | None = None  # metres on the ground, of a model that does not state it
    raw_inputs: bool = False  # the model for Triton takes pixel values and heights, unscaled

    def __post_init__(self) -> None:
        for name, field in (("deepness", "pixel_size"), ("triton", "raw_inputs")):
            if name not in self.names:
                require_unset(self, (field,), f"goes with --for {name}; add it")


_OPTIONS = (
    click.option(
        "--for",
        "names",
        type=click.Choice(NAMES),
        multiple=True,
        help="Write the model for Deepness (QGIS), Triton, a STAC catalogue or Hugging Face, into "
        "a folder of that name; repeatable.",
    ),
    click.option(
        "--pixel-size",
        type=click.FloatRange(0, min_open=True),
        metavar="METRES",
        help="deepness: pixel size of the training images, if the model does not state it.",
    ),
    click.option(
        "--raw-inputs",
        is_flag=True,
        help="triton: take pixel values and heights, and scale them in the model.",
    ),
)
interface_options = option_group(InterfaceOptions, "interfaces", {HEADING: _OPTIONS})
