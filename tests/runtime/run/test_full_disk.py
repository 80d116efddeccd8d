"""A disk that is full or fails at any time: exit code 5, no partial outputs, resumable."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from faults.runner import Conditions
from runs import Fault, Spec, digests
from undisturbed import PLAIN, Undisturbed

from mfnet_runtime.run.manifest import WORK

TOGETHER = 4  # runs at the same time
LEAST = 1024  # bytes: what it says has to fit
CALLS = {
    "a record": "mfnet_runtime.run.manifest:os.write",
    "the manifest": "mfnet_runtime.run.manifest:os.fsync",
    "a block": "mfnet_runtime.raster.geotiff:BlockWriter.write",
    "a mosaic": "mfnet_runtime.raster.geotiff:write_mosaic",
    "overviews": "mfnet_runtime.raster.geotiff:copy_to_cog",
    "bytes of a file": "mfnet_runtime.files:os.fsync",
    "name of a file": "mfnet_runtime.files:os.replace",
}


def assert_out_of_disk(
    whole: Undisturbed, specs: Sequence[Spec], conditions: Sequence[Conditions]
) -> list[Spec]:
    """Run at the same time, check how each run ends, and return those that failed."""
    running = [whole.start(spec, how) for spec, how in zip(specs, conditions, strict=True)]
    failed = []
    for spec, started in zip(specs, running, strict=True):
        ended = started.wait()
        assert ended.code in (0, 5), (spec, ended.err)
        if ended.code:
            failed.append(spec)
            (said,) = ended.errors
            assert "check free space and write permission" in said
            assert spec.out in said
        assert "Traceback" not in ended.err
        assert_only_whole_files(whole, Path(spec.out))
    return failed


def assert_only_whole_files(whole: Undisturbed, out: Path) -> None:
    named = {name: found for name, found in digests(out).items() if not name.startswith(WORK)}
    assert named.items() <= whole.files.items(), out


def limited(whole: Undisturbed, count: int, out: Path) -> int:
    """Limit the size of files, which stands for a full disk; return how many runs failed."""
    largest = max(path.stat().st_size for path in Path(whole.spec.out).iterdir())
    failed = []
    for index in range(0, count, TOGETHER):
        steps = range(index, min(index + TOGETHER, count))
        specs = [whole.spec_in(out / str(step)) for step in steps]
        sizes = [int(LEAST * (largest / LEAST) ** (step / count)) for step in steps]
        limits = [Conditions((("RLIMIT_FSIZE", size),), at_once=True) for size in sizes]
        failed += assert_out_of_disk(whole, specs, limits)
        whole.assert_continues(*specs)
    return len(failed)


def test_files_that_cannot_grow(undisturbed: Undisturbed, tmp_path: Path) -> None:
    assert limited(undisturbed, 8, tmp_path) == 8


@pytest.mark.slow
def test_files_that_cannot_grow_in_small_steps(undisturbed: Undisturbed, tmp_path: Path) -> None:
    assert limited(undisturbed, 50, tmp_path) >= 45


def failing(whole: Undisturbed, faults: Sequence[Fault], out: Path) -> None:
    for index in range(0, len(faults), TOGETHER):
        specs = [
            whole.spec_in(out / f"{index}-{place}", fault=fault)
            for place, fault in enumerate(faults[index : index + TOGETHER])
        ]
        failed = assert_out_of_disk(whole, specs, [PLAIN] * len(specs))
        assert failed == specs
        whole.assert_continues(*specs)


def test_each_kind_of_call_fails(undisturbed: Undisturbed, tmp_path: Path) -> None:
    calls = undisturbed.calls(tuple(CALLS.values()))
    errors = ["ENOSPC", "EIO", "EDQUOT"]
    faults = [
        Fault(
            target, 1 + calls[target] * (place % 3) // 3, errors[place % 3], lasting=place % 2 > 0
        )
        for place, target in enumerate(CALLS.values())
    ]
    failing(undisturbed, faults, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", CALLS)
def test_each_call_fails(undisturbed: Undisturbed, tmp_path: Path, name: str) -> None:
    """The first alone, the second alone, and so on, until the run succeeds."""
    target = CALLS[name]
    count = undisturbed.calls((target,))[target]
    for lasting in (False, True):
        faults = [Fault(target, call, "ENOSPC", lasting) for call in range(1, count + 1)]
        failing(undisturbed, faults, tmp_path / str(lasting))
    beyond = undisturbed.spec_in(tmp_path, fault=Fault(target, count + 1, "ENOSPC"))
    assert undisturbed.wait(beyond).code == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system that can be made larger."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=32k", "none", str(disk)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("file systems cannot be mounted here")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def remount(disk: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(disk)], check=True)


@pytest.mark.parametrize("kilobytes", [[16], [32, 40, 48, 64, 96, 128]])
def test_a_file_system_that_is_full(
    undisturbed: Undisturbed, small_disk: Path, kilobytes: list[int]
) -> None:
    """Resumed again and again, with a little more room each time."""
    spec, codes = undisturbed.spec_in(small_disk / "out"), []
    for size in kilobytes:
        remount(small_disk, f"size={size}k")
        ended = undisturbed.wait(spec.again())
        assert ended.code in (0, 5), ended.err
        codes.append(ended.code)
        assert_only_whole_files(undisturbed, small_disk / "out")
    assert codes[0] == 5
    remount(small_disk, "size=8m")
    undisturbed.assert_continues(spec)


@pytest.mark.parametrize("step", ["begin", "end"])
def test_a_folder_that_cannot_be_written(
    undisturbed: Undisturbed, small_disk: Path, step: str
) -> None:
    """Root may write where the mode forbids it; nobody may on a read-only file system."""
    spec = undisturbed.spec_in(small_disk)
    remount(small_disk, "size=8m")
    if step == "end":
        undisturbed.wait(undisturbed.spec_in(small_disk, fault=Fault(CALLS["overviews"], 2, "EIO")))
    remount(small_disk, "ro")
    before = digests(small_disk)
    ended = undisturbed.wait(spec.again())
    assert ended.code == 5, ended.err
    (said,) = ended.errors
    assert f"{small_disk}: cannot be created or written (Read-only file system); check" in said
    assert digests(small_disk) == before
    remount(small_disk, "rw")
    undisturbed.assert_continues(spec)
