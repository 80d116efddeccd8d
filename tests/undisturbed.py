"""A run that nothing disturbed, and others that must come to the same bytes."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path

from faults.runner import Conditions, Ended, ForkServer, Running
from runs import COMMAND, Spec, digests, write_scenes

from mfnet_runtime.run.manifest import FILE, WORK
from mfnet_runtime.run.state import RunState, read_manifest

PLAIN = Conditions(at_once=True)


def state_in(out: Path) -> RunState:
    """Return what the manifest of a folder says."""
    return read_manifest(out / FILE)


class Undisturbed:
    """A run from beginning to end.

    Args:
        server: Runs it.
        folder: Empty.
        changes: Fields of `Spec` that differ.
    """

    def __init__(self, server: ForkServer, folder: Path, **changes: object) -> None:
        self.server, self.folder = server, folder
        scenes = write_scenes(folder / "scenes")
        self.spec = Spec(str(scenes), str(folder / "whole"), **changes)  # type: ignore[arg-type]
        started = time.monotonic()
        ended = self.wait(self.spec)
        self.seconds = time.monotonic() - started
        assert ended.code == 0, ended.err
        self.files = digests(folder / "whole")

    def spec_in(self, out: Path, **changes: object) -> Spec:
        """Return the same run in another folder, from its beginning."""
        return self.spec.again(**{"resume": False, **changes, "out": str(out)})

    def start(self, spec: Spec, conditions: Conditions = PLAIN) -> Running:
        """Start a run as a process."""
        return self.server.start(spec.words(), self.folder, conditions, COMMAND)

    def wait(self, spec: Spec, conditions: Conditions = PLAIN) -> Ended:
        """Run to the end."""
        return self.start(spec, conditions).wait()

    def calls(self, functions: Sequence[str]) -> dict[str, int]:
        """Count the calls of functions."""
        spec = self.spec_in(self.folder / "counted", restart=True, count=tuple(functions))
        found: dict[str, int] = json.loads(self.wait(spec).err.splitlines()[-1])
        return found

    def assert_continues(self, *specs: Spec) -> None:
        """Continue runs at the same time, and expect the same bytes."""
        for spec, running in [(spec, self.start(spec.again())) for spec in specs]:
            ended = running.wait()
            assert ended.code == 0, (spec, ended.err)
            self.assert_same(Path(spec.out), spec)

    def assert_same(self, out: Path, why: object = "") -> None:
        """Expect the same files, no others, and a manifest that says so."""
        assert digests(out) == self.files, why
        assert not (out / WORK).exists(), why
        state, recorded = state_in(out), {}
        assert state.ended, why
        for scene in state.scenes.values():
            assert scene.done is not None
            recorded.update(
                {name: file["sha256"] for name, file in json.loads(scene.done)["files"].items()}
            )
        assert recorded == self.files, why


def wait_for_blocks(out: Path, count: int = 1, seconds: float = 30) -> None:
    """Wait until a run has recorded some blocks."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if (out / FILE).exists() and (out / FILE).read_text().count('"record": "block"') >= count:
            return
        time.sleep(0.01)
    raise AssertionError(f"{out}: no {count} blocks in {seconds} s")
