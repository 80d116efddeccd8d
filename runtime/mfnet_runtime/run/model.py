"""A loaded model: class maps of arrays and of files in one call."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt

from mfnet_runtime.backends import backend_from_file
from mfnet_runtime.contract import Contract
from mfnet_runtime.errors import SceneError, UsageError
from mfnet_runtime.labels import IGNORE
from mfnet_runtime.network.url import RasterPath, raster_path
from mfnet_runtime.run.options import NO_VECTORS, ResumeOptions, VectorOptions
from mfnet_runtime.run.provenance import model_tags
from mfnet_runtime.run.segment import segment_scenes
from mfnet_runtime.scene.discovery import Scene
from mfnet_runtime.scene.options import ReadOptions
from mfnet_runtime.scene.reader import DEFAULT_OPTIONS, SceneData
from mfnet_runtime.tiling.batches import ArrayScene
from mfnet_runtime.tiling.classes import FinishedRows
from mfnet_runtime.tiling.options import SegmentOptions
from mfnet_runtime.tiling.pipeline import Tick, segment_scene

DEFAULTS = SegmentOptions()
Array = npt.NDArray[Any]


def load(path: str | Path, backend: str = "auto", device: str = "auto", **options: Any) -> Model:
    """Load a model file and claim its device.

    Args:
        path: An ONNX file or a plan, from `mfnet-export`.
        backend: `onnxruntime`, `openvino` or `tensorrt`; `auto` takes the first installed one that
            runs the file.
        device: `cpu` or `cuda`; `auto` takes what the file needs.
        options: `threads`, `precision`, `batch` and `trust_plan`, see `backend_from_file`.

    Returns:
        The model. Close it, or use it in a `with` block, to release the device.

    Raises:
        UsageError: The file is missing, or the backend is not installed.
        ModelError: The file is damaged, or no backend runs it.
        ResourceError: The GPU's memory is full.
    """
    return Model(Path(path), backend, device, **options)


class Model:
    """A network in an engine, and the contract it came with. Made by `load`.

    Threads may share a model; their calls run one after the other.

    Attributes:
        contract: Window, classes, bands, scaling of image and heights.
        classes: Names of the classes, in the order of their indices.
    """

    def __init__(self, path: Path, backend: str, device: str, **options: Any) -> None:
        self.path, self._lock = path, Lock()
        with ExitStack() as opened:
            engine = backend_from_file(path, backend, device, **options)
            self._backend = opened.enter_context(engine)
            self._opened = opened.pop_all()
        self.contract: Contract = self._backend.contract
        self.classes = self.contract.classes.names

    @property
    def device(self) -> str:
        """Description of the device and the engine, for example `CPU, OpenVINO 2026.4.1`."""
        return self._backend.device

    def predict(
        self,
        image: Any,
        dsm: Any,
        *,
        valid: Array | None = None,
        probabilities: bool = False,
        options: SegmentOptions = DEFAULTS,
        tick: Tick = lambda done: None,
    ) -> Any:
        """Segment an image in memory.

        Args:
            image: (3, row, column), the bands of the contract in its order, in stored values: 0 to
                `contract.image.full_scale`. Any size and number type; NaN is nodata. A NumPy array,
                or an xarray `DataArray`.
            dsm: (row, column) heights on the same grid, in metres; NaN is nodata.
            valid: (row, column), False where image or DSM has no data.
            probabilities: Return the probability of every class as well.
            options: Stride, blending, batch; see `SegmentOptions`.
            tick: Called with the number of windows just inferred or skipped; an exception that it
                raises ends the call.

        Returns:
            (row, column) uint8 class indices, 255 for nodata; a `DataArray` with the coordinates of
            the image and `_FillValue` if the image is one. With `probabilities`, a pair of that and
            an array (class, row, column) uint8, percent, 255 for nodata.

        Raises:
            UsageError: Shapes do not fit, pixel values exceed the full scale, or an option is not
                possible.
            ModelError: The network returned NaN.
            ResourceError: The backend has not enough memory for the batch.
        """
        pixels, heights = np.asarray(image), np.asarray(dsm)
        heights = heights[0] if heights.ndim == 3 and len(heights) == 1 else heights
        scene = ArrayScene(self._data(pixels, heights, valid))
        shape = heights.shape
        classes = np.full(shape, IGNORE, np.uint8)
        percents = np.empty((len(self.classes), *shape), np.uint8) if probabilities else None
        if probabilities:
            options = replace(options, probabilities=True)

        def keep(rows: FinishedRows) -> None:
            (top, left), (height, width) = rows.place, rows.classes.shape
            where = slice(top, top + height), slice(left, left + width)
            classes[where] = rows.classes
            if percents is not None and rows.probabilities is not None:
                percents[:, where[0], where[1]] = rows.probabilities

        with self._lock:
            segment_scene(self._backend, scene, keep, options, tick)
        found: Any = classes
        if hasattr(image, "isel"):  # an xarray image, whose coordinates the classes keep
            found = image.isel({image.dims[0]: 0}, drop=True).copy(data=classes)
            facts = {
                **image.encoding,
                **image.attrs,
            }  # nodata and scaling of the image are not kept
            mapping = {name: facts[name] for name in ("grid_mapping",) if name in facts}
            found.attrs, found.encoding = {**mapping, "_FillValue": IGNORE}, {}
        return (found, percents) if probabilities else found

    def segment(
        self,
        image: str | RasterPath,
        dsm: str | RasterPath | None = None,
        *,
        out: str | Path,
        dsm_band: int | None = None,
        options: SegmentOptions = DEFAULTS,
        read: ReadOptions = DEFAULT_OPTIONS,
        vectors: VectorOptions = NO_VECTORS,
        restart: bool = False,
        tick: Tick = lambda done: None,
    ) -> dict[str, Any]:
        """Write the class map of an image file, as `mfnet-run` does.

        Args:
            image: A GeoTIFF; its address, if `read` has its host in `allow_network`.
            dsm: Its DSM; None if a band of the image holds the heights.
            out: The class map to write, `FOLDER/NAME.tif`. Other outputs go beside it.
            dsm_band: Band with the heights, from 1; None for a DSM of one band.
            options: Stride, blending, batch, confidence, probabilities.
            read: Bands, nodata values, alignment, areas.
            vectors: Polygons to make too.
            restart: Drop an unfinished run of other settings in that folder.
            tick: As for `predict`.

        Returns:
            The scene's row of the JSON summary of `mfnet-run`: pixels and area of each class,
            warnings, paths.

        Raises:
            UsageError: A file is missing, or options do not fit.
            SceneError: A raster is damaged, or image and DSM do not fit each other or the model.
            ResourceError: The disk is full, or the folder cannot be written.
        """
        path, target = raster_path(image), Path(out)
        if target.suffix.lower() != ".tif":
            raise UsageError(f"{target}: expected a name ending in .tif")
        if dsm is None and dsm_band is None:
            raise UsageError(f"{path}: give its DSM, or the band that holds the heights (dsm_band)")
        heights = path if dsm is None else raster_path(dsm)
        scene = Scene(target.stem, path, heights, dsm_band=dsm_band)
        with self._lock:
            (outcome,) = segment_scenes(
                self._backend,
                [scene],
                target.parent,
                options,
                read,
                vectors,
                resume=ResumeOptions(restart=restart),
                tags=self._tags,
                tick=tick,
            )
        if outcome.error is not None:
            raise SceneError(outcome.error)
        return outcome.row

    @cached_property
    def _tags(self) -> dict[str, str]:
        """Digest of the file, which is read once for all scenes."""
        return model_tags(self.path)

    def close(self) -> None:
        """Release the device; the model cannot be used any more."""
        self._opened.close()

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def _data(self, image: Array, dsm: Array, valid: Array | None) -> SceneData:
        if image.ndim != 3 or len(image) != 3 or image.shape[1:] != dsm.shape:
            raise UsageError(
                f"image {image.shape} and DSM {dsm.shape}: expected (3, row, column) and "
                "(row, column)"
            )
        if valid is not None and valid.shape != dsm.shape:
            raise UsageError(f"valid {valid.shape}: expected {dsm.shape}, as the DSM")
        known = np.ones(dsm.shape, np.bool_) if valid is None else np.asarray(valid, np.bool_)
        heights = dsm.astype(np.float32)
        image_valid, dsm_valid = known, known & np.isfinite(heights)
        if image.dtype.kind == "f":
            image_valid = image_valid & np.isfinite(image).all(axis=0)
        rule = self.contract.image
        largest = image.max(initial=0, where=image_valid)
        if image.min(initial=0, where=image_valid) < 0 or largest > rule.full_scale * 1.001:
            raise UsageError(
                f"pixel values reach {largest:g}; the model expects 0 to {rule.full_scale:g}"
            )
        return SceneData(image, heights, image_valid, dsm_valid)
