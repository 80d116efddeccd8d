"""The manifest of an output folder, written by the one process that holds its lock."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Any

from mfnet_runtime.errors import ResourceError, UsageError
from mfnet_runtime.files import FileDigest, lock
from mfnet_runtime.raster.geotiff import Block
from mfnet_runtime.run.inputs import Input, require_unchanged
from mfnet_runtime.run.options import ResumeOptions
from mfnet_runtime.run.outputs import OutputPaths
from mfnet_runtime.run.state import FORMAT, line_of, read_manifest
from mfnet_runtime.run.task import Receipt, Task
from mfnet_runtime.scene.discovery import Scene

FILE = "manifest.jsonl"
WORK = ".mfnet-run"  # temporary files in the output folder, until all scenes are done

logger = logging.getLogger(__name__)


class Manifest:
    """The manifest of a run; a context manager that locks the output folder.

    Args:
        folder: Created if missing.
        settings: Everything but the scenes' own files that outputs depend on.
        options: Whether to continue an unfinished run.
        scenes: Names of all scenes of the run.

    Raises:
        UsageError: another process works in the folder, an earlier run there is not finished and
            the options do not say what to do with it, or it had other settings.
        ResourceError: the folder cannot be written; also for an `OSError` raised in the context.
    """

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, Any],
        options: ResumeOptions,
        scenes: Sequence[str],
    ) -> None:
        self._folder, self._work = folder, folder / WORK
        self._settings, self._options, self._scenes = dict(settings), options, scenes
        self.digest = sha256(json.dumps(self._settings, sort_keys=True).encode()).hexdigest()

    def __enter__(self) -> Manifest:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._file = (self._folder / FILE).open("a+b", buffering=0)
            try:
                if not lock(self._file.fileno()):
                    raise UsageError(
                        f"{self._folder}: another mfnet-run works in it; wait for it, or choose "
                        "another folder with -o"
                    )
                self.state = read_manifest(self._folder / FILE)
                self._begin()
            except BaseException:
                self._file.close()
                raise
        except OSError as fault:
            raise self._failed(fault) from fault
        return self

    def _begin(self) -> None:
        """Continue the last run, or begin a new one."""
        state, options = self.state, self._options
        if state.unfinished and not (options.resume or options.restart):
            done = sum(one.done is not None for one in state.scenes.values())
            raise UsageError(
                f"{self._folder}: an unfinished run is there ({done} scenes done); add --resume to "
                "continue it, or --restart to begin anew"
            )
        if options.resume and state.settings is not None:
            self._require_same_settings(state.settings)
            return
        shutil.rmtree(self._work, ignore_errors=True)
        values = {"format": FORMAT, "values": self._settings, "scenes": len(self._scenes)}
        self.append("run", **values)

    def _require_same_settings(self, before: dict[str, Any]) -> None:
        for name in {**before, **self._settings}:
            then, now = before.get(name), self._settings.get(name)
            if then != now:
                raise UsageError(
                    f"{self._folder}: {name} was {_short(then)} in the run there, and is "
                    f"{_short(now)} now; use the same as before, or add --restart"
                )

    def work_folder(self, scene: str) -> Path:
        """Return the folder of a scene's temporary files, created if missing."""
        path = self._work / scene
        for folder in (self._work, path):  # the output folder exists
            folder.mkdir(exist_ok=True)
        for left in path.glob(".*"):  # by a crash
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        return path

    def find_done(
        self, scene: Scene, outputs: OutputPaths
    ) -> tuple[dict[str, FileDigest], dict[str, Any]] | None:
        """Return files and row of a finished scene; None if it is not, or its files have changed.

        Raises:
            InputChangedError: an input has changed since.
        """
        state = self.state.scene(scene.name)
        if state.done is None:
            return None
        require_unchanged(scene, state.inputs)
        done: dict[str, Any] = json.loads(state.done)
        files = {name: FileDigest(**digest) for name, digest in done["files"].items()}
        intact = files.keys() == {path.name for path in outputs.all} and all(
            digest.matches(outputs.classes.parent / name) for name, digest in files.items()
        )
        return (files, done["row"]) if intact else None

    def known_inputs(self, scene: str) -> tuple[Input, ...]:
        """Return the inputs of a scene that was begun; none if it failed, and may be mended."""
        state = self.state.scene(scene)
        return () if state.failed else state.inputs

    def find_block(self, task: Task) -> Block | None:
        """Return the block of a task that was done, if its file is intact."""
        found = self.state.scene(task.scene.name).blocks.get(task.path.name)
        if found is None:
            return None
        record = json.loads(found)
        columns, rows = range(*record["columns"]), range(*record["rows"])
        block = Block(task.path, columns, rows, tuple(record["crc32"]))
        same = (rows, columns) == task.place
        return block if same and block.is_intact() else None

    def append(self, kind: str, **fields: Any) -> None:
        """Append a record; it is on disk when this returns.

        Raises:
            OSError: the disk is full.
        """
        record = json.dumps({"record": kind, "settings": self.digest, **fields}).encode()
        line = line_of(record) + b"\n"
        handle = self._file.fileno()
        status = os.fstat(handle)
        if not status.st_nlink:
            raise OSError("it was removed during the run")
        if status.st_size and os.pread(handle, 1, status.st_size - 1) != b"\n":
            line = b"\n" + line  # after what a crash left of a record
        if os.write(handle, line) != len(line):
            raise OSError("a record was cut short")
        os.fsync(handle)
        self.state.add(record)

    def record_inputs(self, scene: str, inputs: Sequence[Input]) -> None:
        """Record that a scene was begun, unless it is continued."""
        if inputs != self.known_inputs(scene):
            self.append("scene", scene=scene, inputs=[asdict(one) for one in inputs])

    def record(self, receipt: Receipt) -> None:
        """Record that a task was done."""
        self.append("block", **receipt.to_json())

    def record_done(
        self, scene: str, files: Mapping[str, FileDigest], row: Mapping[str, Any]
    ) -> None:
        """Record a finished scene; remove its temporary files, and outputs of earlier runs."""
        for name in self.state.written.get(scene, set()) - files.keys():
            (self._folder / Path(name).name).unlink(missing_ok=True)
        digests = {name: asdict(digest) for name, digest in files.items()}
        self.append("done", scene=scene, files=digests, row=dict(row))
        shutil.rmtree(self._work / scene, ignore_errors=True)

    def record_failed(self, scene: str, error: str) -> None:
        """Record why a scene failed; remove its temporary files."""
        self.append("failed", scene=scene, error=error)
        shutil.rmtree(self._work / scene, ignore_errors=True)

    def end(self) -> None:
        """Record that the run has ended, unless a scene may still be continued."""
        found = [self.state.scene(scene) for scene in self._scenes]
        if all(one.done or one.failed for one in found):
            self.append("end")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self.state.unfinished:  # nothing to continue
            shutil.rmtree(self._work, ignore_errors=True)
        elif error is not None:
            done = sum(self.state.scene(scene).done is not None for scene in self._scenes)
            logger.info(
                "%d of %d scenes are done; use --resume to continue", done, len(self._scenes)
            )
        self._file.close()
        if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):
            raise self._failed(error) from error

    def _failed(self, fault: OSError) -> ResourceError:
        return ResourceError(
            f"{self._folder}: cannot be created or written ({fault.strerror or fault}); check free "
            "space and write permission, or choose another folder with -o"
        )


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
