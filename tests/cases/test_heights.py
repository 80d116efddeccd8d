"""Heights that a command must not pass over in silence."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import rasterio
from support import read, write_raster, write_rgbd_model

from mfnet.cli import main as train
from mfnet_bench.cli import main as bench
from mfnet_runtime.cli.main import main as run

Case = Callable[[str], Path]
TINY = "--from-scratch --backbone tiny --window 64 --epochs 1 --steps 1 --batch 2".split()
SAID = [
    ("good.tif", ""),
    ("zero.tif", "23.44% of the pixels are exactly 0, and the next height is 611.477; if that"),
    ("spike.tif", "use 0% of the network's range, 111.426 .. 9000; use --dsm-range 111 132"),
]


@pytest.mark.parametrize(("name", "said"), SAID)
def test_a_run_says_what_its_check_says(
    case: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, said: str
) -> None:
    folder, model = case("dsm-bad-values-run-silent"), write_rgbd_model(tmp_path / "best.onnx", 64)
    words = [str(model), str(folder / "ortho.tif"), "--dsm", str(folder / name)]
    assert run([*words, "-o", str(tmp_path / "maps"), "--json"]) == 0
    captured = capsys.readouterr()
    assert said in captured.err
    assert ("warning:" in captured.err) == bool(said)
    (scene,) = json.loads(captured.out)["scenes"]
    assert len(scene["warnings"]) == bool(said)
    recorded = (tmp_path / "maps" / "manifest.jsonl").read_text()
    assert said in recorded


@pytest.mark.parametrize(("name", "said"), SAID)
def test_training_and_scores_say_it_too(
    case: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, said: str
) -> None:
    folder, scenes = case("dsm-bad-values-run-silent"), tmp_path / "scenes"
    for kind, source in (("image", "ortho.tif"), ("dsm", name)):
        (scenes / kind).mkdir(parents=True)
        shutil.copy(folder / source, scenes / kind / "a.tif")
    (scenes / "label").mkdir()
    label = (read(folder / "ortho.tif", None)[0] > 128).astype("uint8")
    with rasterio.open(folder / "ortho.tif") as image:
        place = {"crs": image.crs, "transform": image.transform}
    write_raster(scenes / "label" / "a.tif", label, **place)
    assert train([str(scenes), "-o", str(tmp_path / "run"), *TINY]) == 0
    assert said in capsys.readouterr().err
    assert bench(["miou", str(tmp_path / "run" / "best.pt"), str(scenes)]) == 0
    assert said in capsys.readouterr().err
