"""Runs in this process that are interrupted, and what they left."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from resumed_run import Told, run

from mfnet_runtime.run.manifest import FILE as MANIFEST
from mfnet_runtime.run.manifest import Piece
from mfnet_runtime.run.progress import SceneWork


def interrupt(told: Told, pieces: int = 3) -> Told:
    """Run until some pieces are noted; what goes on with it."""
    noted, note = [], SceneWork.note

    def counted(work: SceneWork, piece: Piece) -> None:
        note(work, piece)
        noted.append(piece)
        if len(noted) == pieces:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SceneWork, "note", counted)
        with pytest.raises(KeyboardInterrupt):
            run(told)
    assert len(records(told, "piece")) >= pieces
    return told.again()


def records(told: Told, kind: str) -> list[dict[str, Any]]:
    lines = (Path(told.out) / MANIFEST).read_text().splitlines()
    return [found for found in map(json.loads, lines) if found["record"] == kind]


def statuses(outcomes: Any) -> list[str]:
    return [outcome.row["status"] for outcome in outcomes]
