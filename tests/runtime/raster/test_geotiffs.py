"""65 TIFFs that stress a reader: each is segmented on its own grid or refused clearly."""

from __future__ import annotations

import json
import resource
import warnings
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.errors import NotGeoreferencedWarning
from support import SHARED, read, results_in, run_python, write_raster, write_rgbd_model

from mfnet_runtime.cli.main import main

FOLDER = SHARED / "data" / "geotiffs"
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="../shared/data/geotiffs is not here")
MEMORY = 4 << 30  # bytes; broken files ask for terabytes
HUGE = 1 << 26  # pixels; a sparse file of this size takes minutes and is no test of reading


def files(*parts: str) -> list[Path]:
    return sorted(path for part in parts for path in (FOLDER / part).glob("*.tif*"))


def words(model: Path, image: Path, dsm: Path, out: Path) -> list[str]:
    return [str(model), str(image), "--dsm", str(dsm), "-o", str(out), "--stride", "64"]


def assert_refused(code: int, err: str, path: Path, out: Path) -> None:
    assert code == 4, err
    assert f"error: {path}: " in err
    assert "Traceback" not in err
    assert results_in(out) == []


@pytest.mark.parametrize("path", files("ok", "with_sidecar"), ids=lambda path: path.name)
def test_sound_files(tmp_path: Path, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path) as source:
            shape, place = source.shape, {"crs": source.crs, "transform": source.transform}
            colour = source.count in (3, 4) and source.dtypes[0] == "uint8"
            known = source.dataset_mask() > 0 if np.prod(shape) < HUGE else None
    if known is None:
        pytest.skip(f"{shape[0]} x {shape[1]} px, sparse")
    heights = np.linspace(0, 9, int(np.prod(shape)), dtype=np.float32).reshape(shape)
    dsm = write_raster(tmp_path / "dsm.tif", heights, **place)
    model = write_rgbd_model(tmp_path / "rgbd.onnx", window=64)
    out = tmp_path / "out"
    asked = words(model, path, dsm, out)
    foretold, told = main([*asked, "--check", "--json"]), capsys.readouterr().out
    code = main(asked)
    err = capsys.readouterr().err
    assert foretold == code
    if not colour and code != 0:
        assert_refused(code, err, path, out)
        findings = json.loads(told)["scenes"][0]["findings"]
        refused = [one["text"] for one in findings if one["level"] == "refused"]
        assert any(text in err for text in refused)
        return
    assert code == 0, err
    (written,) = out.glob("*.tif")
    classes = read(written)
    np.testing.assert_array_equal(classes == 255, ~known)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(written) as result:
            assert result.crs == place["crs"]
            assert result.transform.almost_equals(place["transform"])


@pytest.mark.parametrize("path", files("broken"), ids=lambda path: path.name)
def test_broken_files(tmp_path: Path, path: Path) -> None:
    dsm = write_raster(tmp_path / "dsm.tif", np.zeros((8, 8), np.float32))
    out = tmp_path / "out"
    asked = words(write_rgbd_model(tmp_path / "rgbd.onnx"), path, dsm, out)
    done = run_python(
        "from mfnet_runtime.cli.main import main; "
        f"checked, ran = main({[*asked, '--check']!r}), main({asked!r}); "
        "assert checked == ran, (checked, ran); sys.exit(ran)",
        timeout=100,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY)),
    )
    if f"error: {dsm}: is 8 x 8 px" in done.stderr:
        return  # opened, and found to be of another size: nothing was read
    assert_refused(done.returncode, done.stderr, path, out)
