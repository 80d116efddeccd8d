"""Signals in every phase of a run: it ends soon, says how to continue, and loses no byte."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
from faults.runner import Conditions
from runs import STUCK, Fault
from undisturbed import Undisturbed

from mfnet_runtime.run.manifest import WORK

SOON = 10.0  # seconds
PHASES = {
    "lock": "mfnet_runtime.run.manifest:lock",
    "statistics": "mfnet_runtime.run.plan:dsm_range",
    "read": "mfnet_runtime.scene.reader:SceneReader.read",
    "infer": "place_backend:PlaceBackend.infer",
    "block": "mfnet_runtime.raster.geotiff:BlockWriter.write",
    "record": "mfnet_runtime.run.manifest:Manifest.append",
    "mosaic": "mfnet_runtime.raster.geotiff:write_mosaic",
    "overviews": "mfnet_runtime.raster.geotiff:copy_to_cog",
    "read back": "mfnet_runtime.raster.geotiff:checksums",
    "polygons": "mfnet_runtime.run.finish:vectors_from_classmap",
    "digests": "mfnet_runtime.files:sha256_from_file",
    "names": "mfnet_runtime.files:os.replace",
    "clean-up": "mfnet_runtime.run.manifest:shutil.rmtree",
}
CALLS = {"record": 4, "read back": 12, "digests": 5, "names": 12, "clean-up": 2}  # else the first
SENT = {"SIGINT": 130, "SIGINT to all": 130, "SIGTERM": 143}


@pytest.mark.parametrize(
    ("sent", "phases"),
    [
        ("SIGINT", list(PHASES)),
        ("SIGINT to all", ["overviews", "polygons"]),
        ("SIGTERM", ["statistics", "infer", "block", "names"]),
    ],
)
def test_ends_soon_in_every_phase(
    undisturbed: Undisturbed, tmp_path: Path, sent: str, phases: list[str]
) -> None:
    for index in range(0, len(phases), 4):
        specs = {}
        for phase in phases[index : index + 4]:
            fault = Fault(PHASES[phase], CALLS.get(phase, 1), sent)
            specs[phase] = undisturbed.spec_in(tmp_path / phase, fault=fault)
        for phase, running in [(phase, undisturbed.start(spec)) for phase, spec in specs.items()]:
            ended = running.wait()
            assert ended.code == SENT[sent], (phase, ended.err)
            assert ended.seconds < SOON
            (said,) = ended.errors
            assert "no partial output was kept" in said
            assert "Traceback" not in ended.err
            kept = (Path(specs[phase].out) / WORK).exists()
            assert not kept or phase not in ("lock", "statistics", "read", "infer")
            assert kept or phase not in ("mosaic", "overviews", "polygons", "names", "clean-up")
            continues = "of 2 scenes are done; use --resume to continue" in ended.err
            assert continues == kept
        if sent == "SIGINT":
            undisturbed.assert_continues(*specs.values())


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_the_second_ends_it_at_once(
    undisturbed: Undisturbed, tmp_path: Path, sent: signal.Signals
) -> None:
    """Also while the first waits for a thread that writes."""
    spec = undisturbed.spec_in(tmp_path, fault=Fault(PHASES["block"], 1, "stuck"))
    started = time.monotonic()
    running = undisturbed.start(spec)
    while not list(tmp_path.rglob(".*.tif")) and time.monotonic() < started + STUCK / 2:
        time.sleep(0.01)
    time.sleep(0.1)
    running.send(sent)
    time.sleep(0.3)
    running.send(sent)
    ended = running.wait()
    assert ended.code == -sent
    assert time.monotonic() - started < STUCK / 2
    undisturbed.assert_continues(spec)


def test_a_terminal_that_goes(undisturbed: Undisturbed, tmp_path: Path) -> None:
    spec = undisturbed.spec_in(tmp_path, fault=Fault(PHASES["overviews"], 1, "SIGHUP"))
    assert undisturbed.wait(spec).code == -signal.SIGHUP
    undisturbed.assert_continues(spec)


def test_nobody_reads_what_it_says(undisturbed: Undisturbed, tmp_path: Path) -> None:
    """As `mfnet-run ... | head -1`: the work is done all the same."""
    ended = undisturbed.wait(undisturbed.spec_in(tmp_path), Conditions(stdout="closed pipe"))
    assert ended.code == 1
    assert "Traceback" not in ended.err
    undisturbed.assert_same(tmp_path)
