"""A cell of the fault matrix: one fault, what is to come of it, and what it is checked for.

Every cell is held to every invariant (I1 to I9, see docs/RELIABILITY.md); `outcome_of` asserts
them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from faults.bench import Bench
from faults.runner import Conditions, Ended
from faults.watched import Watched
from faults.workplace import OTHERS, Workplace, digests, snapshot
from support import read

from mfnet_runtime.run.manifest import FILE
from mfnet_runtime.run.workdir import WORK

MEMORY = 256 << 20  # bytes resident: Python with its libraries takes 100 MiB of them
SECONDS = 10.0


@dataclass(frozen=True)
class Cell:
    """One fault."""

    fault: str  # number in the matrix
    what: str  # the fault, for people
    code: int  # exit code expected; minus the signal where one ends the run
    result: str  # what comes of it, for people
    plant: Callable[[Workplace], Any]  # changes sound scenes, model or conditions
    says: tuple[str, ...] = ()  # parts of the one error line; else of all that was said
    check: Callable[[Workplace, Ended], Any] | None = None  # what else is to hold
    act: Callable[[Workplace], Ended] = Workplace.run
    others: tuple[str, ...] | None = None  # scenes that must come out as without the fault
    template: str = "small"
    exports: bool = False  # mfnet-export is run, on the workplace's checkpoint
    seconds: float = SECONDS
    memory: int = MEMORY
    starts: bool = False  # a process: the copy of a map too large to be interrupted otherwise
    resumed: bool = False  # `--resume` must then give what an undisturbed run gives
    slow: bool = False

    @property
    def name(self) -> str:
        """Unlike that of any other cell."""
        return f"{self.fault} {self.what}"


def outcome_of(cell: Cell, bench: Bench) -> Ended:
    """Run a cell, and assert every invariant."""
    place = bench.place(cell.template, exports=cell.exports)
    cell.plant(place)
    inputs = snapshot(place.scenes)
    with Watched(place.secrets) as watched:
        ended = cell.act(place)
    assert ended.code == cell.code, ended.err  # I1
    _assert_said(cell, ended)  # I2
    _assert_whole(place)  # I3
    _assert_nothing_left(cell, place)  # I4
    _assert_untouched(cell, place, bench)  # I5
    _assert_noted(cell, place, ended)  # I6
    assert ended.seconds <= cell.seconds  # I7
    assert not ended.hung
    assert ended.memory <= cell.memory, f"{ended.memory >> 20} MiB"  # I8
    _assert_in_bounds(cell, place, ended)  # I9
    assert not watched.opened
    assert not bench.was_reached()
    assert list(place.server.home.iterdir()) == []
    assert snapshot(place.scenes) == inputs
    if cell.check:
        cell.check(place, ended)
    if cell.resumed:
        _assert_goes_on(cell, place, bench)
    return ended


def _assert_said(cell: Cell, ended: Ended) -> None:
    assert "Traceback" not in ended.err + ended.out
    if 0 < cell.code <= 5:
        assert len(ended.errors) == 1, ended.err
        said = ended.errors[0]
        assert "; " in said, f"no remedy: {said}"
        assert len(cell.says) > 1  # file and remedy
    else:
        assert not ended.errors or cell.code, ended.err
        said = ended.err + ended.out
    for part in cell.says:
        assert part in said, f"no {part!r} in {said}"


def _assert_whole(place: Workplace) -> None:
    """Files under a final name can be read, and are those of the manifest."""
    noted = {
        name: found["sha256"]
        for scene in place.manifest().scenes.values()
        if scene.done
        for name, found in scene.done["files"].items()
    }
    assert digests(place.out) == noted
    for path in place.out.glob("*.tif"):
        read(path, None)


def _assert_nothing_left(cell: Cell, place: Workplace) -> None:
    """Besides outputs and the manifest; what a run goes on from stays in one folder."""
    if place.out.is_dir():
        allowed = {FILE, *digests(place.out)} | ({WORK} if cell.resumed else set())
        assert {path.name for path in place.out.iterdir()} <= allowed


def _assert_untouched(cell: Cell, place: Workplace, bench: Bench) -> None:
    """Other scenes are as without the fault; where nothing was begun, nothing is there."""
    others = (OTHERS if cell.code in (0, 4) else ()) if cell.others is None else cell.others
    if others:
        sound = bench.reference(place, cell.template, others)
        assert sound.items() <= digests(place.out).items()
    elif cell.code in (2, 3) and not cell.resumed:
        assert not place.out.exists()


def _assert_noted(cell: Cell, place: Workplace, ended: Ended) -> None:
    """The manifest has a row for every scene: its files, or why it failed."""
    if cell.code not in (0, 4):
        return
    state = place.manifest()
    assert state.ended
    failed = [scene.failed for scene in state.scenes.values() if scene.failed]
    assert [f"error: {' '.join(text.split())}" for text in failed] == ended.errors
    assert all(scene.done or scene.failed for scene in state.scenes.values())


def _assert_in_bounds(cell: Cell, place: Workplace, ended: Ended) -> None:
    """Python opened no file elsewhere, no socket, and no process of its own."""
    expected = {"subprocess.Popen"} if cell.starts else set()
    assert {event.split()[0] for event in ended.reached} == expected
    assert [name for name in ended.opened if not is_known(name, place.root)] == []


def is_known(name: str, folder: Path) -> bool:
    """Whether a file lies in a folder, from which its name counts, or is Python's or the system's.

    Links are followed.
    """
    path = os.path.realpath(os.path.join(folder, name))
    return path.startswith((*_ROOTS, os.path.realpath(folder)))


def _roots() -> tuple[str, ...]:
    """Where Python and its packages are, and what tells about the machine."""
    packages = [os.path.realpath(part) for part in sys.path if part and Path(part).exists()]
    prefixes = [os.path.realpath(part) for part in (sys.prefix, sys.base_prefix)]
    machine = ("/proc/", "/sys/devices/", "/etc/os-release", "/usr/lib/os-release", os.devnull)
    return (*packages, *prefixes, *machine)


_ROOTS = _roots()


def _assert_goes_on(cell: Cell, place: Workplace, bench: Bench) -> None:
    place.conditions = Conditions()
    ended = place.run("--resume")
    assert ended.code == 0, ended.err
    assert digests(place.out) == bench.reference(place, cell.template, ("a", "b", "c"))
    assert sorted(path.name for path in place.out.glob(".*")) == []
