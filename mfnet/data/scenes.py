"""Labelled scenes, opened to be read by rows or held in memory.

Reading is the runtime's, so that training and inference see the same numbers.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from rasterio.windows import Window

from mfnet.data.datasets import Dataset
from mfnet.data.labels import Labels, read_label
from mfnet_runtime.checks.scene import warnings_for
from mfnet_runtime.contract import Contract
from mfnet_runtime.errors import SceneError
from mfnet_runtime.labels import IGNORE
from mfnet_runtime.scene.discovery import Scene
from mfnet_runtime.scene.normalize import BoolArray, FloatArray, Heights, dsm_range
from mfnet_runtime.scene.reader import SceneReader
from mfnet_runtime.tiling.batches import ArrayScene
from mfnet_runtime.tiling.pipeline import RowSource

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LabelledScene:
    """A scene to score."""

    name: str
    source: RowSource
    label: Labels  # (row, column)


@dataclass(frozen=True)
class MemoryScene(ArrayScene):
    """A labelled scene, or some rows of one, held as stored: about 10 bytes per pixel."""

    name: str
    label: Labels  # (row, column), IGNORE where image or DSM has no data
    whole_dsm: tuple[FloatArray, BoolArray]  # heights and validity of all rows of the scene

    def heights(self) -> Heights:
        """Return the whole scene's DSM, whose statistics hold for a part as well."""
        return [self.whole_dsm]

    def rows(self, start: int, stop: int) -> MemoryScene:
        """Return a part of the scene, which shares its memory."""
        return replace(self, data=self.read(start, stop), label=self.label[start:stop])


def open_scene(scene: Scene, dataset: Dataset, full_scale: float) -> SceneReader:
    """Open a scene the way its dataset has to be read.

    Args:
        scene: One of the dataset's.
        dataset: How its files are read.
        full_scale: Pixel value that becomes 1.0; a larger one is refused when it is read.

    Raises:
        SceneError: A file is missing or damaged, or bands or grids do not fit.
    """
    return SceneReader(scene, full_scale, dataset.read)


def warn_about_scenes(scenes: Iterable[Scene], dataset: Dataset, contract: Contract) -> None:
    """Log what looks wrong with image or DSM of each scene, as a run does.

    Raises:
        SceneError: A raster is missing or damaged, or does not fit.
    """
    for scene in scenes:
        with open_scene(scene, dataset, contract.image.full_scale) as reader:
            span = dsm_range(contract.dsm, reader.heights)
            for finding in warnings_for(reader, contract, span):
                logger.warning("%s: %s", scene.name, finding.text)


def open_labelled_scenes(
    scenes: Iterable[Scene], dataset: Dataset, full_scale: float
) -> Iterator[LabelledScene]:
    """Open scenes to score, one at a time; see `open_scene`.

    Raises:
        SceneError: A raster or label is missing or damaged, or a label is out of range.
    """
    for scene in scenes:
        with open_scene(scene, dataset, full_scale) as reader:
            yield LabelledScene(scene.name, reader, _label_of(scene, dataset, reader))


def load_scene(scene: Scene, dataset: Dataset, full_scale: float) -> MemoryScene:
    """Read a labelled scene into memory; see `open_scene`.

    Raises:
        SceneError: A raster or label is missing or damaged, or a label is out of range.
    """
    with open_scene(scene, dataset, full_scale) as reader:
        if reader.alignment is not None:
            logger.info("%s: %s", scene.name, reader.alignment.sentence())
        if reader.scaling.changes:
            logger.info("%s: %s", scene.name, reader.scaling.sentence())
        label = _label_of(scene, dataset, reader)
        data = reader.read(0, reader.height)
    label[~(data.image_valid & data.dsm_valid)] = IGNORE
    return MemoryScene(data, scene.name, label, (data.dsm, data.dsm_valid))


def count_classes(scenes: Sequence[MemoryScene], classes: int) -> npt.NDArray[np.int64]:
    """Count the labelled pixels of each class."""
    counts = np.zeros(256, np.int64)
    for scene in scenes:
        counts += np.bincount(scene.label.ravel(), minlength=256)
    return counts[:classes]


def _label_of(scene: Scene, dataset: Dataset, reader: SceneReader) -> Labels:
    if scene.label is None:
        raise SceneError(f"{scene.image}: scene '{scene.name}' has no label")
    reader.require_grid_of(scene.label)
    label = read_label(
        scene.label, dataset.coding, dataset.classes, dataset.read.limits, dataset.stray
    )
    down, across = reader.scaling.rows, reader.scaling.columns
    label = label[down.nearest_stored(range(reader.height))]
    label = label[:, across.nearest_stored(range(reader.width))]
    inside = reader.inside(Window(0, 0, reader.width, reader.height))
    if inside is not None:
        label[~inside] = IGNORE
    return label
