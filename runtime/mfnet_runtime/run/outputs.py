"""All files of a scene: made in a temporary folder, checked, then given their names together.

Left by an exception, a scene leaves nothing, and what an earlier run left is untouched.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from rasterio.errors import RasterioError

from mfnet_runtime.errors import ResourceError, SceneError
from mfnet_runtime.files import replace_files
from mfnet_runtime.labels import ClassTable
from mfnet_runtime.raster.geotiff import LayerFile
from mfnet_runtime.raster.pixel_area import ClassAreas, ground_area
from mfnet_runtime.raster.polygons import VectorOptions
from mfnet_runtime.raster.vector_file import vectors_from_classmap
from mfnet_runtime.run.classmap import (
    CLASSES_TAG,
    category_names,
)
from mfnet_runtime.run.fingerprint import Fingerprint
from mfnet_runtime.run.paths import OutputPaths
from mfnet_runtime.tiling.classes import FinishedRows


class SceneOutputs:
    """Enter it, `write` rows, leave it: only then the files appear.

    A block of columns after the other, or all at once, each from the top to the bottom.

    Args:
        paths: Where they go; older ones are replaced.
        shape: Rows and columns, pixels.
        classes: Palette and names.
        profile: `crs` and `transform`, or `gcps`, of the image.
        tags: Provenance; no local paths.
        vectors: What polygons to make, where `paths` has a place for them.
        work: An empty folder for temporary files on the same file system; None makes one.

    Raises:
        ResourceError: the folder cannot be written, the disk is full, or what reached the disk
            is not what was written.
        SceneError: the scene's place does not suffice for the polygons asked for.
    """

    def __init__(
        self,
        paths: OutputPaths,
        shape: tuple[int, int],
        classes: ClassTable,
        profile: Mapping[str, Any],
        tags: Mapping[str, str],
        vectors: VectorOptions | None = None,
        work: Path | None = None,
    ) -> None:
        self._work = work or paths.folder
        self._paths, self._shape, self._classes, self._vectors = paths, shape, classes, vectors
        self._place = {key: value for key, value in profile.items() if value is not None}
        self._tags = {CLASSES_TAG: json.dumps(classes.to_json()), **tags}
        self._ground = ground_area(self._place, shape[0])
        self.areas = ClassAreas(self._ground, len(classes))  # once the files are there
        self._files: dict[str, LayerFile] = {}
        self.fingerprints: dict[str, Fingerprint] = {}  # of the files there are, by name
        self._require_polygons_have_a_place()

    @property
    def nodata(self) -> int:
        """Pixels without a class, once the files are there."""
        return self._shape[0] * self._shape[1] - sum(self.areas.pixels)

    def __enter__(self) -> SceneOutputs:
        try:
            with ExitStack() as opened:  # an interrupt may fall in here, and __exit__ never run
                self._folder = Path(tempfile.mkdtemp(prefix=".partial-", dir=self._work))
                opened.callback(shutil.rmtree, self._folder, ignore_errors=True)
                for kind, layer in self._paths.layers(self._classes).items():
                    file = LayerFile(
                        self._folder, kind, layer, self._shape, self._place, self._tags
                    )
                    opened.callback(_close_whatever_happens, file)
                    self._files[kind] = file
                self._opened = opened.pop_all()
        except (RasterioError, OSError) as fault:
            raise self._failed("cannot be created", fault) from fault
        return self

    def write(self, rows: FinishedRows) -> None:
        """Append rows to their block of columns."""
        try:
            for kind, file in self._files.items():
                file.write(getattr(rows, kind), rows.place[1])
        except (RasterioError, OSError) as fault:
            raise self._failed("cannot be written", fault) from fault

    def tag(self, **tags: str) -> None:
        """Add provenance that is known only after the pixels."""
        for file in self._files.values():
            file.tag(tags)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                finished = self._finished()
                self.fingerprints = {
                    path.name: Fingerprint.of(file, whole=True) for file, path in finished
                }
                replace_files(finished)
        except (RasterioError, OSError) as fault:
            raise self._failed("cannot be finished", fault) from fault
        finally:
            self._opened.close()

    def _finished(self) -> list[tuple[Path, Path]]:
        """Every finished file and its place, the class map last: where it is new, all are."""
        paths, counted = self._paths, {"classes": self.areas.add}
        done: dict[Path, Path] = {
            getattr(paths, kind): file.finish(counted.get(kind))
            for kind, file in self._files.items()
        }
        classmap = done.pop(paths.classes)
        if paths.vectors and self._vectors:
            done[paths.vectors] = self._folder / f"vectors.{self._vectors.format}"
            pixels = self._shape[0] * self._shape[1]
            vectors_from_classmap(
                classmap, done[paths.vectors], self._classes, self._vectors, pixels
            )
        done[paths.names] = self._folder / "names.xml"
        done[paths.names].write_text(category_names(self._classes), encoding="utf-8")
        return [(file, path) for path, file in {**done, paths.classes: classmap}.items()]

    def _require_polygons_have_a_place(self) -> None:
        if self._vectors is None:
            return
        if "gcps" in self._place:
            raise SceneError(
                f"{self._paths.classes}: the image has ground control points, polygons need a "
                "transform; warp it with gdalwarp, or leave out --vectors"
            )
        if self._vectors.min_area and self._ground is None:
            raise SceneError(
                f"{self._paths.classes}: the area of the image's pixels is not known (no CRS, or "
                "turned degrees); leave out --min-area, use --sieve"
            )

    def _failed(self, what: str, fault: BaseException) -> ResourceError:
        reason = " ".join(str(fault.__cause__ or fault).split())[:200]
        return ResourceError(
            f"{self._paths.classes}: {what} ({reason}); check free space and write permission"
        )


def _close_whatever_happens(file: LayerFile) -> None:
    """An output that is given up may not even close: the disk is full."""
    with suppress(RasterioError, OSError):
        file.close()
