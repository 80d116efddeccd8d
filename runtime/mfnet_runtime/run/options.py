"""Options of a run that are not about pixels; imports nothing heavy."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from mfnet_runtime.errors import UsageError

VectorFormat = Literal["gpkg", "fgb", "geojson", "shp"]
SIEVE = 16  # pixels; see benchmarks/TRIED.md


@dataclass(frozen=True)
class ResumeOptions:
    """Treatment of an unfinished run in the output folder; by default it is refused."""

    resume: bool = False  # continue it
    restart: bool = False  # begin anew

    def __post_init__(self) -> None:
        if self.resume and self.restart:
            raise UsageError("--resume and --restart exclude each other")


REFUSE_UNFINISHED = ResumeOptions()


@dataclass(frozen=True)
class VectorOptions:
    """Files to make of class maps: polygons, and an item for a catalogue."""

    vectors: VectorFormat | None = None  # format, the suffix of the file; None: no polygons
    sieve: int | None = None  # pixels; smaller patches join their largest neighbour; None: 16
    min_area: float | None = None  # m2; smaller polygons are left out, and leave a gap
    simplify: float | None = None  # metres; corners that add less are left out, borders stay shared

    stac: bool = False  # a STAC item

    def __post_init__(self) -> None:
        if self.vectors not in (None, *get_args(VectorFormat)):
            raise UsageError(
                f"--vectors {self.vectors}: expected {', '.join(get_args(VectorFormat))}"
            )
        sizes = {"sieve": self.sieve, "min-area": self.min_area, "simplify": self.simplify}
        for name, size in sizes.items():
            if size is not None and self.vectors is None:
                raise UsageError(f"--{name} is about polygons; add --vectors")
            if size is not None and not 0 <= size < math.inf:
                raise UsageError(f"--{name} {size}: expected a number from 0 on")

    @property
    def smallest(self) -> int:
        """Pixels of the smallest patch that keeps its class."""
        return SIEVE if self.sieve is None else self.sieve


NO_VECTORS = VectorOptions()
