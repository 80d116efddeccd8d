"""The output files of scenes: their names, what they hold, and whether they can be written."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from mfnet_runtime.errors import SceneError, UsageError
from mfnet_runtime.labels import ClassTable
from mfnet_runtime.raster.geotiff import Layer
from mfnet_runtime.raster.pixel_area import ground_area
from mfnet_runtime.raster.stac import item_of_map
from mfnet_runtime.raster.styles import class_style, percent_style
from mfnet_runtime.raster.vectors import FORMATS
from mfnet_runtime.run.options import VectorOptions
from mfnet_runtime.scene.discovery import Scene
from mfnet_runtime.tiling.options import SegmentOptions

CLASSES_TAG = "MFNET_CLASSES"  # the class table as JSON, names and colours
MAX_NAME = 255  # bytes; the limit of common file systems


@dataclass(frozen=True)
class OutputPaths:
    """The output files of a scene."""

    classes: Path
    names: Path  # of the classes, for GDAL
    style: Path  # of class map and polygons, for QGIS
    confidence: Path | None
    confidence_style: Path | None
    probabilities: Path | None
    vectors: Path | None
    stac: Path | None

    @staticmethod
    def of(folder: Path, name: str, options: SegmentOptions, vectors: VectorOptions) -> OutputPaths:
        """Name the files after the scene."""
        return OutputPaths(
            folder / f"{name}.tif",
            folder / f"{name}.tif.aux.xml",
            folder / f"{name}.qml",
            folder / f"{name}.confidence.tif" if options.confidence else None,
            folder / f"{name}.confidence.qml" if options.confidence else None,
            folder / f"{name}.probabilities.tif" if options.probabilities else None,
            folder / f"{name}.{vectors.vectors}" if vectors.vectors else None,
            folder / f"{name}.stac.json" if vectors.stac else None,
        )

    @property
    def all(self) -> list[Path]:
        """All files that are to be written."""
        found = (self.classes, self.names, self.style, self.confidence, self.confidence_style)
        return [
            path for path in (*found, self.probabilities, *self.vector_files, self.stac) if path
        ]

    @property
    def vector_files(self) -> list[Path]:
        """The file of polygons and those that belong to it."""
        if self.vectors is None:
            return []
        beside = FORMATS[self.vectors.suffix[1:]].beside
        return [self.vectors, *(self.vectors.with_suffix(suffix) for suffix in beside)]

    @property
    def optional(self) -> dict[str, Path | None]:
        """Results besides the class map, by kind."""
        return {
            "confidence": self.confidence,
            "probabilities": self.probabilities,
            "vectors": self.vectors,
        }

    def to_json(self) -> dict[str, str | None]:
        """Return the paths for the JSON summary."""
        optional = {**self.optional, "stac": self.stac}
        found = {kind: str(path) if path else None for kind, path in optional.items()}
        return {"output": str(self.classes), **found}

    def layers(self, classes: ClassTable) -> dict[Path, Layer]:
        """Return the rasters, in the order of their bands in a block."""
        found = {self.classes: Layer(("class",), "mode", classes.colormap())}
        if self.confidence:
            found[self.confidence] = Layer(("percent probability of the class",), "average")
        if self.probabilities:
            found[self.probabilities] = Layer(classes.names, "average")
        return found

    def texts(
        self, classes: ClassTable, place: Mapping[str, Any], shape: tuple[int, int]
    ) -> dict[Path, str]:
        """Return the files beside the rasters: class names, styles, STAC item.

        Args:
            classes: Names and colours.
            place: `crs` and `transform`, or `gcps`, of the image.
            shape: Rows and columns.
        """
        found = {self.names: category_names(classes), self.style: class_style(classes)}
        if self.confidence_style:
            found[self.confidence_style] = percent_style()
        if self.stac:
            files = {"map": self.classes, **self.optional}
            there = {kind: path for kind, path in files.items() if path}
            found[self.stac] = item_of_map(self.classes.stem, classes, place, shape, there)
        return found

    def require_short_names(self) -> None:
        """Refuse names that no file system takes.

        Raises:
            SceneError: with the name.
        """
        for path in self.all:
            if len(os.fsencode(path.name)) > MAX_NAME:
                raise SceneError(
                    f"{path}: its name is longer than {MAX_NAME} bytes; rename the scene"
                )

    def require_polygons_possible(
        self, place: Mapping[str, Any], height: int, vectors: VectorOptions
    ) -> None:
        """Refuse polygons of a scene whose georeferencing does not suffice for them.

        Args:
            place: `crs` and `transform`, or `gcps`, of the image.
            height: Rows.
            vectors: What is asked for.

        Raises:
            SceneError: with the reason.
        """
        if vectors.vectors and "gcps" in place:
            raise SceneError(
                f"{self.classes}: the image has ground control points, polygons need a transform; "
                "warp it with gdalwarp, or leave out --vectors"
            )
        if vectors.vectors and FORMATS[vectors.vectors].needs_crs and not place.get("crs"):
            raise SceneError(
                f"{self.classes}: the image has no CRS, and --vectors {vectors.vectors} needs one; "
                "use --vectors gpkg"
            )
        if (vectors.min_area or vectors.simplify) and ground_area(place, height) is None:
            raise SceneError(
                f"{self.classes}: the area of the image's pixels is unknown (no CRS, or a rotated "
                "geographic grid); leave out --min-area and --simplify, use --sieve"
            )


def category_names(classes: ClassTable) -> str:
    """Return the `.aux.xml` file beside a class map in which GDAL looks for class names."""
    rows = "".join(f"      <Category>{escape(name)}</Category>\n" for name in classes.names)
    return (
        '<PAMDataset>\n  <PAMRasterBand band="1">\n    <CategoryNames>\n'
        f"{rows}    </CategoryNames>\n  </PAMRasterBand>\n</PAMDataset>\n"
    )


def require_places(scenes: Sequence[Scene], places: Sequence[OutputPaths], folder: Path) -> None:
    """Refuse an output folder in which a file would be overwritten that must not be.

    Raises:
        UsageError: it holds inputs, unless there is one scene, named otherwise; it is a file, or
            has a folder in place of an output; or two scenes have an output of the same name.
    """
    rasters = (path for scene in scenes for path in (scene.image, scene.dsm))
    inputs = {path for path in rasters if isinstance(path, Path)}
    other_name = len(scenes) == 1 and scenes[0].name not in {path.stem for path in inputs}
    # `Path.resolve` raises for circular links
    folders = {os.path.dirname(os.path.realpath(path)) for path in inputs}
    if os.path.realpath(folder) in folders and not other_name:
        raise UsageError(f"{folder}: holds inputs; choose another folder with -o")
    for path, count in Counter(path for outputs in places for path in outputs.all).items():
        if count > 1:
            raise UsageError(f"{path}: two scenes would write it; rename one")
        if path.is_dir():
            raise UsageError(f"{path}: is a folder; choose another one with -o")
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder}: is a file; choose a folder with -o")
