"""`kill -9` at any point of a run: resuming it gives the bytes of an undisturbed run."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest
from runs import Fault
from undisturbed import Undisturbed

TOGETHER = 4  # runs at the same time
# everything that changes what is on disk; each call is a point to be killed at
POINTS = {
    "the folder is created": "mfnet_runtime.run.manifest:Path.mkdir",
    "locked": "mfnet_runtime.run.manifest:lock",
    "a record of the manifest": "mfnet_runtime.run.manifest:os.write",
    "the manifest reaches the disk": "mfnet_runtime.run.manifest:os.fsync",
    "a block is written": "mfnet_runtime.raster.geotiff:BlockWriter.write",
    "a block is read back": "mfnet_runtime.raster.geotiff:block_checksums",
    "blocks are put together": "mfnet_runtime.raster.geotiff:write_mosaic",
    "cloud-optimised": "mfnet_runtime.raster.geotiff:copy_to_cog",
    "an output is read back": "mfnet_runtime.raster.geotiff:checksums",
    "polygons": "mfnet_runtime.run.finish:vectors_from_classmap",
    "files reach the disk": "mfnet_runtime.files:os.fsync",
    "files get their names": "mfnet_runtime.files:os.replace",
    "temporary files are removed": "mfnet_runtime.run.manifest:shutil.rmtree",
}


def faults(calls: dict[str, int], name: str, only: int | None) -> list[Fault]:
    """Return a fault before, after and half way through all calls of a point, or some of them."""
    target, kinds = POINTS[name], ["before", "after"]
    kinds += ["half"] * (name == "a record of the manifest")
    count = calls[target]
    assert count, name
    chosen = range(1, count + 1, -(-count // only) if only else 1)
    return [Fault(target, call, kind) for call in chosen for kind in kinds]


def killed_at(undisturbed: Undisturbed, found: list[Fault], out: Path) -> None:
    """Kill runs, some at the same time, each in a folder of its own, and continue them."""
    for index in range(0, len(found), TOGETHER):
        specs = [
            undisturbed.spec_in(out / f"{index}-{place}", fault=fault)
            for place, fault in enumerate(found[index : index + TOGETHER])
        ]
        for spec, running in [(spec, undisturbed.start(spec)) for spec in specs]:
            ended = running.wait()
            assert ended.code == -signal.SIGKILL, (spec, ended.err)
        undisturbed.assert_continues(*specs)


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
    """Its files are removed too, even those that the new run does not replace."""
    replace, sync = POINTS["files get their names"], POINTS["files reach the disk"]
    calls = undisturbed.calls((replace, sync))
    found = [
        Fault(replace, calls[replace] - 2, "after"),
        Fault(sync, calls[sync] - 2, "after"),
        Fault("mfnet_runtime.run.manifest:Manifest.record_done", 1, "before"),
        Fault("mfnet_runtime.run.manifest:Manifest.record_done", 1, "after"),
    ]
    earlier = {"vectors": "gpkg", "options": {"stride": 8}}
    specs = [undisturbed.spec_in(tmp_path / f"0-{place}", **earlier) for place in range(len(found))]
    for running in [undisturbed.start(spec) for spec in specs]:
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
    """Kill runs at random times; one in three of those that continue is killed too."""
    rng = random.Random(seed)
    for index in range(0, count, TOGETHER):
        specs = [undisturbed.spec_in(out / f"{index}-{place}") for place in range(TOGETHER)]
        disturbed = specs
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
        undisturbed.assert_continues(*specs)


def test_killed_at_random_times(undisturbed: Undisturbed, tmp_path: Path) -> None:
    killed_at_times(undisturbed, 20, 1, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10, 20))
def test_killed_at_more_random_times(undisturbed: Undisturbed, tmp_path: Path, seed: int) -> None:
    killed_at_times(undisturbed, 20, seed, tmp_path)
