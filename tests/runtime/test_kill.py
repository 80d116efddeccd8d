"""`kill -9` at any point of a run: going on gives the bytes of a run that nobody disturbed."""

from __future__ import annotations

import json
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from faults.runner import Conditions, Ended, ForkServer, Running
from resumed_run import COMMAND, Fault, Told, digests, write_scenes

from mfnet_runtime.manifest import Manifest

SIZES = ((70, 110), (40, 50))
# What a run leaves on the disk, or does with it, by name. Each call of each is a point to die at.
POINTS = {
    "the folder is made": "mfnet_runtime.run_folder:Path.mkdir",
    "locked": "mfnet_runtime.run_folder:locked",
    "a record of the manifest": "mfnet_runtime.manifest:os.write",
    "the manifest reaches the disk": "mfnet_runtime.manifest:os.fsync",
    "a piece is written": "mfnet_runtime.pieces:_OpenPiece.write",
    "a piece reaches the disk": "mfnet_runtime.pieces:os.fsync",
    "a raster is made": "mfnet_runtime.layer_file:LayerFile.__init__",
    "cloud-optimised": "mfnet_runtime.layer_file:cog_from_tiff",
    "read back": "mfnet_runtime.layer_file:LayerFile._compare",
    "polygons": "mfnet_runtime.outputs:vectors_from_classmap",
    "outputs reach the disk": "mfnet_runtime.files:os.fsync",
    "an output gets its name": "mfnet_runtime.files:os.replace",
    "pieces are removed": "mfnet_runtime.run_folder:shutil.rmtree",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkServer]:
    with ForkServer(tmp_path_factory.mktemp("said"), COMMAND) as started:
        yield started


class Undisturbed:
    """A run from its begin to its end."""

    def __init__(self, server: ForkServer, folder: Path) -> None:
        self.server, self.folder = server, folder
        scenes = write_scenes(folder / "scenes", SIZES)
        self.told = Told(str(scenes), str(folder / "whole"), vectors="fgb")
        started = time.monotonic()
        ended = self.wait(self.told)
        self.seconds = time.monotonic() - started
        assert ended.code == 0, ended.err
        self.files = digests(folder / "whole")
        assert len(self.files) == 10

    def start(self, told: Told) -> Running:
        return self.server.start(told.words(), self.folder, Conditions(), COMMAND)

    def wait(self, told: Told) -> Ended:
        return self.start(told).wait()

    def calls(self) -> dict[str, int]:
        """Of the functions of `POINTS`."""
        told = self.told.again(out=str(self.folder / "counted"), count=tuple(POINTS.values()))
        found: dict[str, int] = json.loads(self.wait(told).err.splitlines()[-1])
        return found

    def assert_goes_on(self, told: Told, why: object) -> None:
        """Going on gives the same files, and the manifest says so."""
        ended = self.wait(told.again())
        assert ended.code == 0, (why, ended.err)
        out = Path(told.out)
        assert digests(out) == self.files, why
        assert not (out / ".mfnet-run").exists(), why
        manifest = Manifest(out)
        state = manifest.refresh()
        manifest.close()
        assert state.ended, why
        noted: dict[str, str] = {}
        for scene in state.scenes.values():
            assert scene.done is not None
            noted |= {name: file["sha256"] for name, file in scene.done["files"].items()}
        assert noted == self.files, why


@pytest.fixture(scope="module")
def undisturbed(server: ForkServer, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    return Undisturbed(server, tmp_path_factory.mktemp("undisturbed"))


def faults(calls: dict[str, int], name: str, only: int | None) -> list[Fault]:
    """Every call of a point, or some spread evenly, each killed before, after and half done."""
    target, kinds = POINTS[name], ["before", "after"]
    kinds += ["half"] * (name == "a record of the manifest")
    count = calls[target]
    assert count, name
    chosen = range(1, count + 1, -(-count // only) if only else 1)
    return [Fault(target, call, kind) for call in chosen for kind in kinds]


def killed_at(undisturbed: Undisturbed, found: list[Fault], out: Path) -> None:
    for index, fault in enumerate(found):
        told = undisturbed.told.again(out=str(out / str(index)), resume=False, fault=fault)
        ended = undisturbed.wait(told)
        assert ended.code == -signal.SIGKILL, (fault, ended.err)
        undisturbed.assert_goes_on(told, fault)


def test_killed_at_every_kind_of_point(undisturbed: Undisturbed, tmp_path: Path) -> None:
    """Once before and once after each, somewhere in the run."""
    calls, rng, found = undisturbed.calls(), random.Random(5), []
    for name in POINTS:
        every = faults(calls, name, None)
        for kind in {fault.kind for fault in every}:
            found.append(rng.choice([fault for fault in every if fault.kind == kind]))
    killed_at(undisturbed, found, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", POINTS)
def test_killed_at_every_call_of_a_point(
    undisturbed: Undisturbed, tmp_path: Path, name: str
) -> None:
    killed_at(undisturbed, faults(undisturbed.calls(), name, 40), tmp_path)


def killed_at_times(undisturbed: Undisturbed, count: int, seed: int, out: Path) -> None:
    """At a time of a run, one in three of those that go on too."""
    rng = random.Random(seed)
    for index in range(count):
        told = undisturbed.told.again(out=str(out / str(index)), resume=False)
        while True:
            running = undisturbed.start(told)
            time.sleep(rng.uniform(0, 1.1 * undisturbed.seconds))
            running.send(signal.SIGKILL)
            assert running.wait().code in (-signal.SIGKILL, 0)
            told = told.again()
            if rng.random() > 1 / 3:
                break
        undisturbed.assert_goes_on(told, (seed, index))


def test_killed_at_random_times(undisturbed: Undisturbed, tmp_path: Path) -> None:
    killed_at_times(undisturbed, 20, 1, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10, 20))
def test_killed_at_more_random_times(undisturbed: Undisturbed, tmp_path: Path, seed: int) -> None:
    killed_at_times(undisturbed, 20, seed, tmp_path)
