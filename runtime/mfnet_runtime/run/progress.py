"""A scene's state in its run: begun by whom, which pieces are there, whether it is done.

Several processes may ask and tell; what the manifest says counts.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mfnet_runtime.contract import DsmRule
from mfnet_runtime.errors import ResourceError, SceneError
from mfnet_runtime.run.chunks import (
    is_whole,
    missing_rows,
    remove_others,
    remove_piece,
    rows_of_piece,
)
from mfnet_runtime.run.fingerprint import Fingerprint
from mfnet_runtime.run.manifest import Piece, SceneState
from mfnet_runtime.run.paths import OutputPaths
from mfnet_runtime.run.workdir import RunFolder
from mfnet_runtime.scene.discovery import Scene
from mfnet_runtime.scene.normalize import DsmRange, Heights, dsm_range
from mfnet_runtime.tiling.classes import FinishedRows
from mfnet_runtime.tiling.grid import WindowGrid


class OtherInput(SceneError):
    """An input is not the file that pieces and outputs were made of; these are kept."""


@dataclass(frozen=True)
class Begun:
    """What holds for all pieces of a scene, whoever makes them."""

    block: int  # columns worked on at a time
    span: DsmRange  # the heights that become 0 and 1


class SceneWork:
    """A scene in a run.

    Args:
        folder: Of the run, entered.
        scene: The files.
        outputs: Where its files go.
        bands: How many each of its layers has.
    """

    def __init__(
        self, folder: RunFolder, scene: Scene, outputs: OutputPaths, bands: Mapping[str, int]
    ) -> None:
        self._run, self._scene, self._outputs = folder, scene, outputs
        self.bands = dict(bands)
        self._inputs: list[dict[str, Any]] = []

    @property
    def folder(self) -> Path:
        """Of the scene's pieces; made where missing."""
        return self._run.of(self._scene.name)

    def done(self) -> dict[str, Any] | None:
        """The record of the finished scene; None where it is not, or its files are not as then.

        Raises:
            OtherInput: an input is another one than then.
        """
        record = self._state.done
        if record is None:
            return None
        self._require_as_then(record["inputs"])
        here = self._outputs.folder
        whole = record["files"].keys() == {path.name for path in self._outputs.all} and all(
            Fingerprint(**found).fits(here / name) for name, found in record["files"].items()
        )
        return record if whole else None

    def begun(
        self,
        files: Sequence[tuple[str, Path]],
        block: int,
        rule: DsmRule,
        heights: Callable[[], Heights],
    ) -> Begun:
        """Begin, or join or go on with whoever began.

        Args:
            files: All that the scene consists of, each with "image" or "dsm".
            block: Columns to work on at a time, where that is still open.
            rule: How heights become network input.
            heights: Starts a pass over the DSM.

        Raises:
            OtherInput: an input is another one than then.
        """
        with self._run.turn():
            self._run.manifest.refresh()
            record = self._state.begun
            if record is not None and self._goes_on(record, files, block):
                self._inputs = record["inputs"]
                return Begun(record["block"], DsmRange(*record["dsm"]))
            self._inputs = [self._entry(role, path) for role, path in files]
            span = dsm_range(rule, heights)
            self._run.manifest.append(
                "scene",
                scene=self._scene.name,
                inputs=self._inputs,
                block=block,
                dsm=[span.low, span.high, span.valid_pixels],
            )
            return Begun(block, span)

    def missing(self, parts: Sequence[WindowGrid]) -> list[WindowGrid]:
        """What of these is not made yet."""
        pieces = self._whole_pieces()
        if self._run.alone:
            remove_others(self.folder, pieces)
        return [
            replace(part, band=rows)
            for part in parts
            for rows in missing_rows(pieces, part.made, part.made_rows)
        ]

    def note(self, piece: Piece) -> None:
        """A piece is on the disk."""
        self._run.manifest.append("piece", scene=self._scene.name, **piece.to_json())

    @contextmanager
    def every_piece(self, blocks: Sequence[WindowGrid]) -> Iterator[list[Piece] | None]:
        """All of a scene's, for the one process that is to finish it.

        None where others still make theirs, finish the scene or have finished it.

        Raises:
            ResourceError: some are not there any more.
            OtherInput: an input changed while they were made.
        """
        with ExitStack() as opened:
            with self._run.turn():  # so of those that make the last pieces one finds all
                self._run.manifest.refresh()
                pieces = self._whole_pieces()
                lacking = any(missing_rows(pieces, block.made, block.made_rows) for block in blocks)
                if lacking and self._run.alone:
                    raise ResourceError(
                        f"{self.folder}: pieces that were made are not there; let nothing else "
                        "change that folder, and make them again with --resume"
                    )
                to_do = not (lacking or self._state.done) and opened.enter_context(
                    self._run.alone_with(self._scene.name)
                )
            if to_do:
                self._require_as_then(self._inputs)
            yield pieces if to_do else None

    def rows(self, pieces: Sequence[Piece]) -> Iterator[FinishedRows]:
        """What pieces that cover the scene hold, block after block from the top.

        Raises:
            ResourceError: a piece is not what was written; it is removed.
        """
        for piece in sorted(pieces, key=lambda piece: (piece.columns.start, piece.rows.start)):
            try:
                yield from rows_of_piece(self.folder, piece, self.bands)
            except OSError as fault:
                remove_piece(self.folder, piece)
                raise ResourceError(
                    f"{self.folder / piece.file}: {fault.strerror or fault}; it is removed: check "
                    "the disk, and make it again with --resume"
                ) from fault

    def finish(self, files: Mapping[str, Fingerprint], row: dict[str, Any]) -> None:
        """All files are there: note it, remove pieces, and files of earlier runs that are not."""
        manifest, name = self._run.manifest, self._scene.name
        for file in manifest.state.written.get(name, set()) - files.keys():
            (self._outputs.folder / Path(file).name).unlink(missing_ok=True)
        manifest.append(
            "done",
            scene=name,
            inputs=self._inputs,
            files={file: found.to_json() for file, found in files.items()},
            row=row,
        )
        self._run.forget(name)

    @property
    def _state(self) -> SceneState:
        return self._run.manifest.state.of(self._scene.name)

    def _whole_pieces(self) -> list[Piece]:
        pieces, folder = self._state.pieces.values(), self.folder  # made once, not for each
        return [piece for piece in pieces if is_whole(folder, piece, self.bands)]

    def _goes_on(
        self, record: dict[str, Any], files: Sequence[tuple[str, Path]], block: int
    ) -> bool:
        """Whether what was begun is of use.

        Raises:
            OtherInput: an input is another one than then, and it is not that the scene failed.
        """
        try:
            self._require_as_then(record["inputs"], files)
        except OtherInput:
            if self._state.failed is None:
                raise
            return False
        lost = self._state.done is not None and self.done() is None
        return not lost and (record["block"] <= block or not self._run.alone)

    def _entry(self, role: str, path: Path) -> dict[str, Any]:
        try:
            found = Fingerprint.of(path)
        except OSError as fault:
            raise SceneError(
                f"{path}: cannot be read ({fault.strerror}); check the disk it is on"
            ) from fault
        return {"of": role, "name": os.path.relpath(path, self._beside(role)), **found.to_json()}

    def _require_as_then(
        self, inputs: Sequence[dict[str, Any]], files: Sequence[tuple[str, Path]] = ()
    ) -> None:
        known = set()
        for entry in inputs:
            path = self._beside(entry["of"]) / entry["name"]
            known.add((entry["of"], entry["name"]))
            then = {key: value for key, value in entry.items() if key not in ("of", "name")}
            if not Fingerprint(**then).fits(path):
                raise OtherInput(
                    f"{path}: is not the file it was when the run began; put that one back, or "
                    "begin anew with --restart"
                )
        for role, path in files:
            if (role, os.path.relpath(path, self._beside(role))) not in known:
                raise OtherInput(
                    f"{path}: was not there when the run began; remove it, or begin anew with "
                    "--restart"
                )

    def _beside(self, role: str) -> Path:
        return (self._scene.image if role == "image" else self._scene.dsm).parent
