"""A worker's model, opened once, and the check that it is the coordinator's."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mfnet_runtime.backends import backend_from_file
from mfnet_runtime.backends.base import Backend
from mfnet_runtime.backends.model_checks import threads_or_cores
from mfnet_runtime.errors import MFNetError, ResourceError, SceneError, UsageError
from mfnet_runtime.files import sha256_from_file
from mfnet_runtime.raster.limits import keep_gdal_local
from mfnet_runtime.run.provenance import engine_version
from mfnet_runtime.run.task import Receipt, Task, do
from mfnet_runtime.tiling.batch_size import BatchSize
from mfnet_runtime.version import installed_version

Opener = Callable[[int], Backend]  # opens the model with a number of threads; can be pickled
Answer = Receipt | SceneError | ResourceError  # of a worker to a task


@dataclass(frozen=True)
class ModelFile:
    """How to open the model of a backend in another process."""

    path: Path
    sha256: str
    options: dict[str, Any]  # of `backend_from_file`
    files: tuple[tuple[str, bytes], ...] = ()  # the model and what belongs to it, to be shipped

    @staticmethod
    def of(backend: Backend, ship: bool = False) -> ModelFile:
        """Describe an open backend.

        Raises:
            UsageError: it was not opened from a file.
        """
        path = getattr(backend, "path", None)
        if path is None:
            raise UsageError(f"{backend.name}: has no model file; give the executor its opener")
        options = {
            "name": backend.name,
            "device": "cpu" if backend.threads else "cuda",
            "precision": "bf16" if backend.precision.endswith("bf16") else None,
            "batch": backend.batches.best,
        }
        files = (path, path.with_name(f"{path.name}.json")) if ship else ()  # a plan's facts
        shipped = tuple((file.name, file.read_bytes()) for file in files if file.exists())
        return ModelFile(path.absolute(), sha256_from_file(path), options, shipped)

    def __call__(self, threads: int) -> Backend:
        """Open the model; the backend is entered.

        Raises:
            UsageError: the file is missing, or another one.
            ModelError: it is refused.
            ResourceError: it does not fit in memory.
        """
        if not self.files:
            return self._open(self.path, threads)
        with TemporaryDirectory(prefix="mfnet-") as folder:
            for name, content in self.files:
                (Path(folder) / name).write_bytes(content)
            return self._open(Path(folder) / self.path.name, threads)

    def _open(self, path: Path, threads: int) -> Backend:
        if not path.is_file():
            raise UsageError(
                f"{path}: no such model file; put it in a folder that all machines share, or add "
                "--ship-model"
            )
        if sha256_from_file(path) != self.sha256:
            raise UsageError(f"{path}: is not the model of this run; put the same file there")
        return backend_from_file(path, threads=threads, **self.options).__enter__()


def facts_of(backend: Backend) -> dict[str, str]:
    """Return what must be the same in all processes, for outputs to be the same."""
    return {
        "mfnet": installed_version("mfnet"),
        "engine": f"{backend.name} {engine_version(backend)}",
        "device": backend.device,
        "precision": backend.precision,
        "contract": backend.contract.to_json(),
    }


@dataclass(frozen=True)
class Order:
    """The requirements on a worker before its first task."""

    opener: Opener
    facts: dict[str, str]
    files: tuple[Path, ...]  # of the first task: a token in the output folder, image and DSM
    threads: int  # 0: the cores of its machine, shared with the workers there


class Station:
    """A worker's open model. Pickled, it is opened again: sessions of engines do not pickle.

    Args:
        order: What to have.
        neighbours: Workers of the machine, this one included.

    Raises:
        UsageError: something else is there.
        ModelError: the model is refused.
        ResourceError: the model does not fit in memory.
    """

    def __init__(self, order: Order, neighbours: int) -> None:
        keep_gdal_local()
        self._made_of = order, neighbours
        for file in order.files:
            if not file.exists():
                raise UsageError(
                    f"{file}: not there; all machines must share the folders of scenes and "
                    "outputs, under the same path"
                )
        threads = order.threads or max(1, threads_or_cores(0) // neighbours)
        self._backend = order.opener(threads)
        for name, here in facts_of(self._backend).items():
            if here != order.facts[name]:
                raise UsageError(
                    f"{name} is {here[:200]}, and {order.facts[name][:200]} where the run was "
                    "started; install the same versions"
                )
        self._sizes: BatchSize | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return Station, self._made_of

    def attempt(self, task: Task) -> Answer:
        """Do a task; return what is wrong with the scene or this worker rather than raise it."""
        if self._sizes is None:
            self._sizes = BatchSize(task.options.batch, self._backend.batches)
        try:
            return do(task, self._backend, self._sizes)
        except (SceneError, ResourceError) as fault:
            return fault
        except MemoryError as fault:
            return ResourceError(f"out of memory ({fault}); use a smaller --max-memory or --batch")
        except OSError as fault:
            if not task.folder.is_dir():
                return SceneError(f"{task.folder}: was removed")  # the scene has failed meanwhile
            return ResourceError(
                f"{task.folder}: cannot be written ({fault.strerror or fault}); check free space "
                "and write permission, and continue with --resume"
            )

    def close(self) -> None:
        """Release the device."""
        self._backend.__exit__(None, None, None)


def open_station(order: Order, neighbours: int) -> Station | MFNetError:
    """Open a station; return what is wrong rather than raise it."""
    try:
        return Station(order, neighbours)
    except MFNetError as fault:
        return fault


def absolute(task: Task) -> Task:
    """Return a task for processes that work in other folders."""
    scene = replace(task.scene, image=task.scene.image.absolute(), dsm=task.scene.dsm.absolute())
    return replace(task, scene=scene, folder=Path(os.path.abspath(task.folder)))
