"""The options of `mfnet-run` that say what is written besides class maps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from mfnet_runtime.console import option_group
from mfnet_runtime.errors import UsageError

if TYPE_CHECKING:
    from mfnet_runtime.raster.polygons import VectorOptions


@dataclass(frozen=True)
class OutputWords:
    """What the command line says about outputs, as click gives it."""

    confidence: bool
    probabilities: bool
    vectors: Any  # "gpkg", "fgb" or None
    sieve: int | None
    min_area: float | None

    def vector_options(self) -> VectorOptions | None:
        """Polygons, if any.

        Raises:
            UsageError: words about polygons that are not asked for.
        """
        from mfnet_runtime.raster.polygons import VectorOptions

        if self.vectors is None:
            if self.sieve is not None or self.min_area is not None:
                raise UsageError("--sieve and --min-area say what polygons to make; add --vectors")
            return None
        return VectorOptions(self.vectors, self.sieve or 0, self.min_area or 0.0)


_OPTIONS = (
    click.option(
        "--confidence",
        is_flag=True,
        help="Write NAME.confidence.tif too: percent probability of each pixel's class.",
    ),
    click.option(
        "--probabilities",
        is_flag=True,
        help="Write NAME.probabilities.tif too: percent of every class, a band each.",
    ),
    click.option(
        "--vectors",
        type=click.Choice(["gpkg", "fgb"]),
        help="Write polygons too: GeoPackage or FlatGeobuf.",
    ),
    click.option(
        "--sieve",
        type=click.IntRange(min=0),
        metavar="PX",
        help="Patches of fewer pixels go to their largest neighbour before polygons are made.",
    ),
    click.option(
        "--min-area",
        type=click.FloatRange(min=0),
        metavar="M2",
        help="Leave out smaller polygons.",
    ),
)

output_options = option_group(OutputWords, _OPTIONS, "output", "Outputs")
