"""A run that nobody disturbed, and others that must come to the same bytes."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path

from faults.runner import Conditions, Ended, ForkServer, Running
from resumed_run import COMMAND, Told, digests, write_scenes

from mfnet_runtime.run.manifest import Manifest, RunState
from mfnet_runtime.run.workdir import WORK

PLAIN = Conditions(at_once=True)
SIZES = ((48, 100), (20, 25))


def state_in(out: Path) -> RunState:
    """What the manifest of a folder says."""
    manifest = Manifest(out)
    try:
        return manifest.refresh()
    finally:
        manifest.close()


class Undisturbed:
    """A run from its begin to its end.

    Args:
        server: Runs it.
        folder: Empty.
        sizes: Of its scenes.
        changes: Fields of `Told` that differ.
    """

    def __init__(
        self,
        server: ForkServer,
        folder: Path,
        sizes: Sequence[tuple[int, int]] = SIZES,
        **changes: object,
    ) -> None:
        self.server, self.folder = server, folder
        scenes = write_scenes(folder / "scenes", sizes)
        self.told = Told(str(scenes), str(folder / "whole"), **changes)  # type: ignore[arg-type]
        started = time.monotonic()
        ended = self.wait(self.told)
        self.seconds = time.monotonic() - started
        assert ended.code == 0, ended.err
        self.files = digests(folder / "whole")

    def told_in(self, out: Path, **changes: object) -> Told:
        """The same run in another folder, from its begin."""
        return self.told.again(**{"resume": False, **changes, "out": str(out)})

    def start(self, told: Told, conditions: Conditions = PLAIN) -> Running:
        """As a process."""
        return self.server.start(told.words(), self.folder, conditions, COMMAND)

    def wait(self, told: Told, conditions: Conditions = PLAIN) -> Ended:
        """Until its end."""
        return self.start(told, conditions).wait()

    def calls(self, functions: Sequence[str]) -> dict[str, int]:
        """How often they are called."""
        told = self.told_in(self.folder / "counted", restart=True, count=tuple(functions))
        found: dict[str, int] = json.loads(self.wait(told).err.splitlines()[-1])
        return found

    def assert_goes_on(self, *told: Told) -> None:
        """Going on gives the same bytes; several at the same time, each in its folder."""
        for one, running in [(one, self.start(one.again())) for one in told]:
            ended = running.wait()
            assert ended.code == 0, (one, ended.err)
            self.assert_same(Path(one.out), one)

    def assert_same(self, out: Path, why: object = "") -> None:
        """The same files and no others, and the manifest says so."""
        assert digests(out) == self.files, why
        assert not (out / WORK).exists(), why
        state, noted = state_in(out), {}
        assert state.ended, why
        for scene in state.scenes.values():
            assert scene.done is not None
            noted.update({name: file["sha256"] for name, file in scene.done["files"].items()})
        assert noted == self.files, why


def wait_for_pieces(out: Path, count: int = 1, seconds: float = 30) -> None:
    """Until a run has noted some."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if out.is_dir() and sum(len(one.pieces) for one in state_in(out).scenes.values()) >= count:
            return
        time.sleep(0.01)
    raise AssertionError(f"{out}: no {count} pieces in {seconds} s")
