"""Where the files of scenes go, and whether they may."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mfnet_runtime.errors import SceneError, UsageError
from mfnet_runtime.labels import ClassTable
from mfnet_runtime.raster.geotiff import Layer
from mfnet_runtime.raster.polygons import VectorOptions
from mfnet_runtime.run.classmap import CONFIDENCE, class_layer, probability_layer
from mfnet_runtime.scene.discovery import Scene
from mfnet_runtime.tiling.options import SegmentOptions

MAX_NAME = 255  # bytes; what common file systems take


@dataclass(frozen=True)
class OutputPaths:
    """Where the files of a scene go."""

    classes: Path
    names: Path  # of the classes, for GDAL
    confidence: Path | None
    probabilities: Path | None
    vectors: Path | None

    @staticmethod
    def of(
        folder: Path, name: str, options: SegmentOptions, vectors: VectorOptions | None
    ) -> OutputPaths:
        """By the scene's name."""
        return OutputPaths(
            folder / f"{name}.tif",
            folder / f"{name}.tif.aux.xml",
            folder / f"{name}.confidence.tif" if options.confidence else None,
            folder / f"{name}.probabilities.tif" if options.probabilities else None,
            folder / f"{name}.{vectors.format}" if vectors else None,
        )

    @property
    def all(self) -> list[Path]:
        """Those that are to be."""
        found = (self.classes, self.names, self.confidence, self.probabilities, self.vectors)
        return [path for path in found if path]

    def to_json(self) -> dict[str, str | None]:
        """The optional ones."""
        found = {
            "confidence": self.confidence,
            "probabilities": self.probabilities,
            "vectors": self.vectors,
        }
        return {kind: str(path) if path else None for kind, path in found.items()}

    @property
    def folder(self) -> Path:
        """In which they are."""
        return self.classes.parent

    def layers(self, classes: ClassTable) -> dict[str, Layer]:
        """The rasters that are to be, by their field here and in `FinishedRows`."""
        every = {
            "classes": class_layer(classes),
            "confidence": CONFIDENCE,
            "probabilities": probability_layer(classes),
        }
        return {kind: layer for kind, layer in every.items() if getattr(self, kind)}

    def bands(self, classes: ClassTable) -> dict[str, int]:
        """How many each of the layers has."""
        return {kind: len(layer.bands) for kind, layer in self.layers(classes).items()}

    def require_short_names(self) -> None:
        """Refuse before any work what no file system takes after it.

        Raises:
            SceneError: with the name.
        """
        for path in self.all:
            if len(os.fsencode(path.name)) > MAX_NAME:
                raise SceneError(
                    f"{path}: its name is longer than {MAX_NAME} bytes; rename the scene"
                )


def require_places(scenes: Sequence[Scene], places: Sequence[OutputPaths], folder: Path) -> None:
    """Refuse a folder, or names in it, that would cost what is there.

    Raises:
        UsageError: it holds inputs, is a file, has a folder in an output's place, or two scenes
            have an output of the same name.
    """
    inputs = {path for scene in scenes for path in (scene.image, scene.dsm)}
    # not `Path.resolve`, which raises where links go in a circle
    if os.path.realpath(folder) in {os.path.dirname(os.path.realpath(path)) for path in inputs}:
        raise UsageError(f"{folder}: holds inputs; choose another folder with -o")
    for path, count in Counter(path for outputs in places for path in outputs.all).items():
        if count > 1:
            raise UsageError(f"{path}: two scenes would write it; rename one")
        if path.is_dir():
            raise UsageError(f"{path}: is a folder; choose another one with -o")
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder}: is a file; choose a folder with -o")
