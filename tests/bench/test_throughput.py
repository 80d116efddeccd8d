"""`mfnet-bench throughput`: what it measures adds up, and the stub's classes are known."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
from support import read

from mfnet_bench import throughput
from mfnet_bench.cli import main
from mfnet_bench.throughput import StubBackend, draw_scene
from mfnet_runtime.run.segment import segment_scenes
from mfnet_runtime.tiling.pipeline import SegmentOptions

SIZE = 300  # pixels a side: a window and a moved one on each axis


@pytest.fixture
def _small_town(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throughput, "TOWN", 128)


@pytest.mark.usefixtures("_small_town")
def test_parts_add_up(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["throughput", "--size", str(SIZE), "--rounds", "2"]
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["size"], found["stride"], found["windows"]) == (SIZE, 256, 4)
    parts = [found[name] for name in ("heights_s", "classes_s", "files_s")]
    assert sum(parts) == pytest.approx(found["total_s"])
    assert min(parts[:2]) > 0
    assert found["mpx_per_s"] == pytest.approx(SIZE**2 / 1e6 / found["total_s"])
    assert found["machine"]["cores"] > 0
    assert main(words) == 0
    assert "Mpx/s: 300 x 300 px at stride 256, 4 windows, " in capsys.readouterr().out


@pytest.mark.usefixtures("_small_town")
def test_the_stub_s_classes_are_the_brightest_bands_of_a_repeated_town(tmp_path: Path) -> None:
    scene = draw_scene(tmp_path, SIZE)
    image, dsm = read(tmp_path / "image.tif", None), read(tmp_path / "dsm.tif")
    np.testing.assert_array_equal(image[:, :128, :128], image[:, 128:256, 128:256])
    segment_scenes(StubBackend(), [scene], tmp_path / "out", SegmentOptions(256), quiet=True)
    scaled = (dsm - dsm.min()) / (dsm.max() - dsm.min())
    logits = np.concatenate([image * np.float32(1 / 255), scaled[None]])
    np.testing.assert_array_equal(read(tmp_path / "out" / "town.tif"), logits.argmax(axis=0))


@pytest.mark.parametrize("words", ["--size 0", "--rounds 0", "--stride 300"])
def test_nothing_to_measure(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["throughput", *words.split()]) == 2
    assert "expected" in capsys.readouterr().err


@pytest.mark.slow
def test_100_million_pixels_take_what_2_cores_do_in_5_s(tmp_path: Path) -> None:
    """Time of the processor, which other work on the machine changes least: 20 Mpx/s need it."""
    scene = draw_scene(tmp_path, 10_000)
    started = time.process_time()
    segment_scenes(StubBackend(), [scene], tmp_path / "out", SegmentOptions(256), quiet=True)
    assert time.process_time() - started < 10
