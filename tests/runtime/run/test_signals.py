"""Signals in every phase of a run: it ends soon, says how to go on, and does to the same bytes."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
from faults.runner import Conditions
from resumed_run import STUCK, Fault
from undisturbed import Undisturbed

from mfnet_runtime.run.workdir import WORK

SOON = 10.0  # seconds
PHASES = {
    "lock": "mfnet_runtime.run.workdir:locked",
    "statistics": "mfnet_runtime.run.progress:dsm_range",
    "read": "mfnet_runtime.scene.reader:SceneReader.read",
    "infer": "place_backend:PlaceBackend.infer",
    "piece": "mfnet_runtime.run.chunks:_OpenPiece.write",
    "record": "mfnet_runtime.run.manifest:Manifest.append",
    "raster": "mfnet_runtime.raster.geotiff:LayerFile.write",
    "overviews": "mfnet_runtime.raster.geotiff:cog_from_tiff",
    "read back": "mfnet_runtime.raster.geotiff:LayerFile._compare",
    "polygons": "mfnet_runtime.run.outputs:vectors_from_classmap",
    "digests": "mfnet_runtime.run.fingerprint:sha256_from_file",
    "names": "mfnet_runtime.files:os.replace",
    "tidy": "mfnet_runtime.run.workdir:shutil.rmtree",
}
CALLS = {"record": 3, "tidy": 2}  # the first ones are when the run begins
SENT = {"SIGINT": 130, "SIGINT to all": 130, "SIGTERM": 143}


@pytest.mark.parametrize(
    ("sent", "phases"),
    [
        ("SIGINT", list(PHASES)),
        ("SIGINT to all", ["overviews", "polygons"]),
        ("SIGTERM", ["statistics", "infer", "piece", "names"]),
    ],
)
def test_ends_soon_in_every_phase(
    undisturbed: Undisturbed, tmp_path: Path, sent: str, phases: list[str]
) -> None:
    for index in range(0, len(phases), 4):
        told = {}
        for phase in phases[index : index + 4]:
            fault = Fault(PHASES[phase], CALLS.get(phase, 1), sent)
            told[phase] = undisturbed.told_in(tmp_path / phase, fault=fault)
        for phase, running in [(phase, undisturbed.start(one)) for phase, one in told.items()]:
            ended = running.wait()
            assert ended.code == SENT[sent], (phase, ended.err)
            assert ended.seconds < SOON
            (said,) = ended.errors
            assert "nothing half-written has a name" in said
            assert "Traceback" not in ended.err
            kept = (Path(told[phase].out) / WORK).exists()
            assert not kept or phase not in ("lock", "statistics", "read", "infer")
            assert kept or phase not in ("raster", "overviews", "polygons", "names", "tidy")
            goes_on = "0 of 2 scenes are done; --resume goes on from here" in ended.err
            assert goes_on == kept
        if sent == "SIGINT":
            undisturbed.assert_goes_on(*told.values())


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_the_second_ends_it_at_once(
    undisturbed: Undisturbed, tmp_path: Path, sent: signal.Signals
) -> None:
    """Also while the first waits for a thread that writes."""
    told = undisturbed.told_in(tmp_path, fault=Fault(PHASES["piece"], 1, "stuck"))
    started = time.monotonic()
    running = undisturbed.start(told)
    while not list(tmp_path.rglob("*.classes")) and time.monotonic() < started + STUCK / 2:
        time.sleep(0.01)
    time.sleep(0.1)
    running.send(sent)
    time.sleep(0.3)
    running.send(sent)
    ended = running.wait()
    assert ended.code == -sent
    assert time.monotonic() - started < STUCK / 2
    undisturbed.assert_goes_on(told)


def test_a_terminal_that_goes(undisturbed: Undisturbed, tmp_path: Path) -> None:
    told = undisturbed.told_in(tmp_path, fault=Fault(PHASES["overviews"], 1, "SIGHUP"))
    assert undisturbed.wait(told).code == -signal.SIGHUP
    undisturbed.assert_goes_on(told)


def test_nobody_reads_what_it_says(undisturbed: Undisturbed, tmp_path: Path) -> None:
    """As `mfnet-run ... | head -1`: the work is done all the same."""
    ended = undisturbed.wait(undisturbed.told_in(tmp_path), Conditions(stdout="closed pipe"))
    assert ended.code == 1
    assert "Traceback" not in ended.err
    undisturbed.assert_same(tmp_path)
