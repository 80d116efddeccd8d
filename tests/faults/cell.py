"""A cell of the fault matrix: one fault, and what must come of it.

`outcome_of` asserts every invariant of docs/RELIABILITY.md (I1 to I9) for every cell.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from faults.runner import Conditions, Ended
from faults.workplace import OTHERS, Bench, Workplace, digests, snapshot, unopened
from support import read

from mfnet_runtime.run.manifest import FILE, WORK

MEMORY = 256 << 20  # resident bytes, 100 MiB of which are Python and its libraries
SECONDS = 10.0


@dataclass(frozen=True)
class Cell:
    """One fault."""

    fault: str  # number in the matrix
    what: str  # the fault, for people
    code: int  # expected exit code, or minus the signal that ends the run
    result: str  # what comes of it, for people
    plant: Callable[[Workplace], Any]  # changes sound scenes, model or conditions
    says: tuple[str, ...] = ()  # parts of the error line, or of all output if there is none
    check: Callable[[Workplace, Ended], Any] | None = None  # what else must hold
    act: Callable[[Workplace], Ended] = Workplace.run
    others: tuple[str, ...] | None = None  # scenes that come out as without the fault
    template: str = "small"
    exports: bool = False  # mfnet-export runs on the workplace's checkpoint
    seconds: float = SECONDS
    memory: int = MEMORY
    starts: bool = False  # a process of its own, for a large map
    resumed: bool = False  # `--resume` then gives what an undisturbed run gives
    slow: bool = False

    @property
    def name(self) -> str:
        """A unique name."""
        return f"{self.fault} {self.what}"


def outcome_of(cell: Cell, bench: Bench) -> Ended:
    """Run a cell and assert every invariant."""
    place = bench.place(cell.template, exports=cell.exports)
    cell.plant(place)
    inputs = snapshot(place.scenes)
    with unopened(place.secrets):
        ended = cell.act(place)
    assert ended.code == cell.code, ended.err  # I1
    _assert_message(cell, ended)  # I2
    _assert_outputs(cell, place, bench)  # I3 to I5
    if cell.code in (0, 4):
        _assert_manifest(place, ended)  # I6
    assert ended.seconds <= cell.seconds  # I7
    assert not ended.hung
    assert ended.memory <= cell.memory, f"{ended.memory >> 20} MiB"  # I8
    # I9
    assert {event.split()[0] for event in ended.reached} == (
        {"subprocess.Popen"} if cell.starts else set()
    )
    assert [name for name in ended.opened if not is_known(name, place.root)] == []
    assert not bench.was_reached()
    assert list(place.server.home.iterdir()) == []
    assert snapshot(place.scenes) == inputs
    if cell.check:
        cell.check(place, ended)
    if cell.resumed:
        place.conditions = Conditions()
        again = place.run("--resume")
        assert again.code == 0, again.err
        assert digests(place.out) == bench.reference(place, cell.template, ("a", "b", "c"))
        assert sorted(path.name for path in place.out.glob(".*")) == []
    return ended


def _assert_message(cell: Cell, ended: Ended) -> None:
    assert "Traceback" not in ended.err + ended.out
    said = ended.err + ended.out
    if 0 < cell.code <= 5:
        (said,) = ended.errors
        assert "; " in said, f"no remedy: {said}"
        assert len(cell.says) > 1  # file and remedy
    elif not cell.code:
        assert not ended.errors, ended.err
    for part in cell.says:
        assert part in said, f"no {part!r} in {said}"


def _assert_outputs(cell: Cell, place: Workplace, bench: Bench) -> None:
    """Files are whole and in the manifest, nothing else is left, other scenes are untouched."""
    found = digests(place.out)
    done = [json.loads(scene.done) for scene in place.manifest().scenes.values() if scene.done]
    assert found == {name: file["sha256"] for one in done for name, file in one["files"].items()}
    for path in place.out.glob("*.tif"):
        read(path, None)
    if place.out.is_dir():
        allowed = {FILE, *found} | ({WORK} if cell.resumed else set())
        assert {path.name for path in place.out.iterdir()} <= allowed
    others = (OTHERS if cell.code in (0, 4) else ()) if cell.others is None else cell.others
    if others:
        assert bench.reference(place, cell.template, others).items() <= found.items()
    elif cell.code in (2, 3) and not cell.resumed:
        assert not place.out.exists()


def _assert_manifest(place: Workplace, ended: Ended) -> None:
    """The manifest has every scene: its files, or the message it failed with."""
    state = place.manifest()
    assert state.ended
    failed = [scene.failed for scene in state.scenes.values() if scene.failed]
    assert [f"error: {' '.join(text.split())}" for text in failed] == ended.errors
    assert all(scene.done or scene.failed for scene in state.scenes.values())


def _known_roots() -> tuple[str, ...]:
    """Where Python and its packages are, and what describes the machine."""
    packages = [part for part in (*sys.path, sys.prefix, sys.base_prefix) if part]
    machine = ("/proc/", "/sys/devices/", "/etc/os-release", "/usr/lib/os-release", os.devnull)
    return (*(os.path.realpath(part) for part in packages if Path(part).exists()), *machine)


_ROOTS = _known_roots()


def is_known(name: str, folder: Path) -> bool:
    """Return whether a file, links followed, is in a folder or belongs to Python or the system."""
    path = os.path.realpath(os.path.join(folder, name))
    return path.startswith((*_ROOTS, os.path.realpath(folder)))
