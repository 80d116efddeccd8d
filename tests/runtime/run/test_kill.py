"""`kill -9` at any point of a run: going on gives the bytes of a run that nobody disturbed."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest
from resumed_run import Fault
from undisturbed import Undisturbed

TOGETHER = 4  # runs at the same time
# What a run leaves on the disk, or does with it, by name. Each call of each is a point to die at.
POINTS = {
    "the folder is made": "mfnet_runtime.run.workdir:Path.mkdir",
    "locked": "mfnet_runtime.run.workdir:locked",
    "a record of the manifest": "mfnet_runtime.run.manifest:os.write",
    "the manifest reaches the disk": "mfnet_runtime.run.manifest:os.fsync",
    "a piece is written": "mfnet_runtime.run.chunks:_OpenPiece.write",
    "a piece reaches the disk": "mfnet_runtime.run.chunks:os.fsync",
    "a raster is made": "mfnet_runtime.raster.geotiff:LayerFile.__init__",
    "cloud-optimised": "mfnet_runtime.raster.geotiff:cog_from_tiff",
    "read back": "mfnet_runtime.raster.geotiff:LayerFile._compare",
    "polygons": "mfnet_runtime.run.outputs:vectors_from_classmap",
    "outputs reach the disk": "mfnet_runtime.files:os.fsync",
    "an output gets its name": "mfnet_runtime.files:os.replace",
    "pieces are removed": "mfnet_runtime.run.workdir:shutil.rmtree",
}


def faults(calls: dict[str, int], name: str, only: int | None) -> list[Fault]:
    """Every call of a point, or some spread evenly, each killed before, after and half done."""
    target, kinds = POINTS[name], ["before", "after"]
    kinds += ["half"] * (name == "a record of the manifest")
    count = calls[target]
    assert count, name
    chosen = range(1, count + 1, -(-count // only) if only else 1)
    return [Fault(target, call, kind) for call in chosen for kind in kinds]


def killed_at(undisturbed: Undisturbed, found: list[Fault], out: Path) -> None:
    """Some at the same time, each in a folder of its own."""
    for index in range(0, len(found), TOGETHER):
        told = [
            undisturbed.told_in(out / f"{index}-{place}", fault=fault)
            for place, fault in enumerate(found[index : index + TOGETHER])
        ]
        for one, running in [(one, undisturbed.start(one)) for one in told]:
            ended = running.wait()
            assert ended.code == -signal.SIGKILL, (one, ended.err)
        undisturbed.assert_goes_on(*told)


def test_killed_at_every_kind_of_point(undisturbed: Undisturbed, tmp_path: Path) -> None:
    """Before, after or half way through one of its calls, somewhere in the run."""
    calls, rng, found = undisturbed.calls(tuple(POINTS.values())), random.Random(5), []
    for name in POINTS:
        every = faults(calls, name, None)
        kinds = sorted({fault.kind for fault in every})
        for kind in kinds if "half" in kinds else [rng.choice(kinds)]:
            found.append(rng.choice([fault for fault in every if fault.kind == kind]))
    killed_at(undisturbed, found, tmp_path)


def test_killed_over_an_earlier_run(undisturbed: Undisturbed, tmp_path: Path) -> None:
    """Its files go too, those that the new run does not replace."""
    found = [
        Fault(POINTS["an output gets its name"], 2, "after"),
        Fault(POINTS["outputs reach the disk"], 6, "after"),
        Fault("mfnet_runtime.run.progress:Path.unlink", 1, "before"),
        Fault("mfnet_runtime.run.progress:SceneWork.finish", 1, "after"),
    ]
    earlier = {"vectors": "gpkg", "walk": {"stride": 8}}
    told = [undisturbed.told_in(tmp_path / f"0-{place}", **earlier) for place in range(len(found))]
    for running in [undisturbed.start(one) for one in told]:
        assert running.wait().code == 0
    assert (tmp_path / "0-0" / "a.gpkg").exists()
    killed_at(undisturbed, found, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", POINTS)
def test_killed_at_every_call_of_a_point(
    undisturbed: Undisturbed, tmp_path: Path, name: str
) -> None:
    calls = undisturbed.calls(tuple(POINTS.values()))
    killed_at(undisturbed, faults(calls, name, 40), tmp_path)


def killed_at_times(undisturbed: Undisturbed, count: int, seed: int, out: Path) -> None:
    """At some time of a run; one in three of those that go on is killed too."""
    rng = random.Random(seed)
    for index in range(0, count, TOGETHER):
        told = [undisturbed.told_in(out / f"{index}-{place}") for place in range(TOGETHER)]
        disturbed = told
        while disturbed:
            started = time.monotonic()
            running = [undisturbed.start(one) for one in disturbed]
            longest = 1.1 * undisturbed.seconds * max(len(running) / 2, 1)  # on two cores
            for at, pid in sorted((rng.uniform(0, longest), one.pid) for one in running):
                time.sleep(max(started + at - time.monotonic(), 0))
                os.kill(pid, signal.SIGKILL)
            for one in running:
                assert one.wait().code in (-signal.SIGKILL, 0)
            disturbed = [one.again() for one in disturbed if rng.random() < 1 / 3]
        undisturbed.assert_goes_on(*told)


def test_killed_at_random_times(undisturbed: Undisturbed, tmp_path: Path) -> None:
    killed_at_times(undisturbed, 20, 1, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10, 20))
def test_killed_at_more_random_times(undisturbed: Undisturbed, tmp_path: Path, seed: int) -> None:
    killed_at_times(undisturbed, 20, seed, tmp_path)
