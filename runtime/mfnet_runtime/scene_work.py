"""A scene's state in its run: begun by whom, which pieces are there, whether it is done.

Several processes may ask and tell; what the manifest says counts.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mfnet_runtime.contract import DsmRule
from mfnet_runtime.errors import ResourceError, SceneError
from mfnet_runtime.fingerprint import Fingerprint
from mfnet_runtime.finished import FinishedRows
from mfnet_runtime.manifest import Piece, SceneState
from mfnet_runtime.output_paths import OutputPaths
from mfnet_runtime.pieces import is_whole, missing_rows, remove_others, rows_of_pieces
from mfnet_runtime.run_folder import RunFolder
from mfnet_runtime.scaling import DsmRange, Heights, dsm_range
from mfnet_runtime.scenes import Scene
from mfnet_runtime.windows import WindowGrid


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

    def alone(self) -> AbstractContextManager[bool]:
        """Whether no other process finishes the scene."""
        return self._run.alone_with(self._scene.name)

    def done(self) -> dict[str, Any] | None:
        """The record of the finished scene; None where it is not, or its files are not as then.

        Raises:
            SceneError: an input is another one than then.
        """
        record = self._state.done
        if record is None:
            return None
        for entry in record["inputs"]:
            self._require_as_then(entry)
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
            SceneError: an input is another one than then.
        """
        with self._run.turn():
            self._run.manifest.refresh()
            record = self._state.begun
            if record is not None:
                for entry in record["inputs"]:
                    self._require_as_then(entry)
                if record["block"] <= block or not self._run.alone:
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

    def every_piece(self, blocks: Sequence[WindowGrid]) -> list[Piece] | None:
        """All of a scene's; None where others still make theirs, or have finished the scene."""
        self._run.manifest.refresh()
        pieces = self._whole_pieces()
        lacking = any(missing_rows(pieces, block.made, block.made_rows) for block in blocks)
        return None if lacking or self._state.done else pieces

    def rows(self, pieces: Sequence[Piece]) -> Iterator[FinishedRows]:
        """What pieces hold, block after block from the top.

        Raises:
            ResourceError: a piece is not what was written.
        """
        try:
            yield from rows_of_pieces(self.folder, pieces, self.bands)
        except OSError as fault:
            raise ResourceError(
                f"{self.folder}: {fault}; check the disk, and begin anew with --restart"
            ) from fault

    def finish(self, files: Mapping[str, Fingerprint], row: dict[str, Any]) -> None:
        """All files are there: note it, remove pieces, and files of earlier runs that are not."""
        manifest, name = self._run.manifest, self._scene.name
        stale = manifest.state.written.get(name, set()) - files.keys()
        manifest.append(
            "done",
            scene=name,
            inputs=self._inputs,
            files={file: found.to_json() for file, found in files.items()},
            row=row,
        )
        for file in stale:
            (self._outputs.folder / Path(file).name).unlink(missing_ok=True)
        self._run.forget(name)

    @property
    def _state(self) -> SceneState:
        return self._run.manifest.state.of(self._scene.name)

    def _whole_pieces(self) -> list[Piece]:
        pieces = self._state.pieces.values()
        return [piece for piece in pieces if is_whole(self.folder, piece, self.bands)]

    def _entry(self, role: str, path: Path) -> dict[str, Any]:
        name = os.path.relpath(path, self._beside(role))
        return {"of": role, "name": name, **Fingerprint.of(path).to_json()}

    def _require_as_then(self, entry: dict[str, Any]) -> None:
        path = self._beside(entry["of"]) / entry["name"]
        then = {key: value for key, value in entry.items() if key not in ("of", "name")}
        if not Fingerprint(**then).fits(path):
            raise SceneError(
                f"{path}: is not the file it was when the run began; put that one back, or begin "
                "anew with --restart"
            )

    def _beside(self, role: str) -> Path:
        return (self._scene.image if role == "image" else self._scene.dsm).parent
