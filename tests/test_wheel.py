"""The first steps of three newcomers, from an installed wheel instead of the source tree."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path, PurePosixPath
from zipfile import ZipFile

import httpx2
import pytest
from in_qgis import layers_in_qgis
from rasterio.io import MemoryFile
from serving import started
from support import outside

ROOT = Path(__file__).parents[1]
PACKAGES = {"mfnet", "mfnet_bench", "mfnet_export", "mfnet_runtime"}
DATA = {
    *(f"{name}/py.typed" for name in PACKAGES),
    *(f"mfnet_runtime/cuda/{name}" for name in ("kernels.cu", "kernels.ptx")),
    *(f"mfnet_runtime/demo/data/{name}" for name in ("SOURCE.txt", "autzen.onnx")),
    *(f"mfnet_runtime/demo/data/{name}" for name in ("dsm.tif", "image.tif")),
    "mfnet_runtime/serve/page.html",
}
ROUTES = {"health": "ready", "metrics": "mfnet_requests_total", "": "<html"}
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = ["wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run([sys.executable, "-m", "pip", *build], check=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


def environment(folder: Path, *packages: str) -> Path:
    """Make a virtual environment; returns the folder of its commands."""
    subprocess.run([sys.executable, "-m", "venv", folder], check=True, env=outside())
    install = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", *packages]
    subprocess.run(install, check=True, env=outside())
    return folder / "bin"


@pytest.fixture(scope="module")
def base(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return environment(tmp_path_factory.mktemp("base"), str(wheel))


@pytest.fixture(scope="module")
def serve(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return environment(tmp_path_factory.mktemp("serve"), f"{wheel}[serve]", "rioxarray")


def run(folder: Path, *command: str | Path) -> str:
    done = subprocess.run(command, cwd=folder, env=outside(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_holds_the_packages_and_their_data(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        names = {PurePosixPath(name) for name in archive.namelist()}
    names = {name for name in names if not name.parts[0].endswith(".dist-info")}
    assert {name.parts[0] for name in names} == PACKAGES
    assert {str(name) for name in names if name.suffix != ".py"} == DATA
    assert not [name for name in names if "test" in name.stem.split("_")]
    assert wheel.stat().st_size < 10e6


def test_analyst(base: Path, tmp_path: Path) -> None:
    run(tmp_path, base / "mfnet-run", "demo", "-o", "maps")
    names = {path.name for path in (tmp_path / "maps").iterdir()}
    assert {"demo.tif", "demo.qml", "demo.png"} <= names


def test_analyst_in_qgis(serve: Path, tmp_path: Path) -> None:
    run(tmp_path, serve / "mfnet-run", "demo", "-o", "maps", "--vectors", "gpkg")
    files = [tmp_path / "maps" / f"demo.{suffix}" for suffix in ("tif", "gpkg")]
    shown = layers_in_qgis(1000, 800, *files)
    assert shown["demo.tif"]["renderer"] == "paletted"
    assert shown["demo.gpkg"]["renderer"] == "categorizedSymbol"
    legend = shown["demo.tif"]["legend"]
    assert shown["demo.gpkg"]["legend"] == legend
    assert [name for name, _ in legend] == ["ground", "building", "vegetation", "water", "bridge"]


ARRAYS = """
import sys
import numpy as np
import mfnet_runtime as mf
from mfnet_runtime.demo import MODEL
assert mf.__file__.startswith(sys.prefix), mf.__file__
with mf.load(MODEL) as model:
    classes = model.predict(np.zeros((3, 300, 200), np.uint8), np.random.rand(300, 200))
print(classes.shape)
"""
FILES = """
import mfnet_runtime as mf
import rasterio
import rioxarray
from mfnet_runtime.demo import MODEL, SCENE
image = rioxarray.open_rasterio(SCENE.image, masked=True)
dsm = rioxarray.open_rasterio(SCENE.dsm, masked=True)
with mf.load(MODEL) as model:
    model.predict(image, dsm).rio.to_raster("arrays.tif")
    model.segment(SCENE.image, dsm=SCENE.dsm, out="files.tif")
with rasterio.open("arrays.tif") as one, rasterio.open("files.tif") as other:
    for name in ("crs", "transform", "nodata", "dtype"):
        assert one.profile[name] == other.profile[name], name
    print((one.read() != other.read()).sum())
"""


def test_python_user(base: Path, tmp_path: Path) -> None:
    assert run(tmp_path, base / "python", "-c", ARRAYS) == "(300, 200)\n"


def test_python_user_with_xarray(serve: Path, tmp_path: Path) -> None:
    assert run(tmp_path, serve / "python", "-c", FILES) == "0\n"


def test_service_team(serve: Path, tmp_path: Path) -> None:
    find = "from mfnet_runtime.demo import DATA; print(DATA, end='')"
    data = Path(run(tmp_path, serve / "python", "-c", find))
    command = [str(serve / "mfnet-serve"), str(data / "autzen.onnx"), "--port", "0"]
    with started(*command, cwd=tmp_path, env=outside()) as (address, server):
        form = {name: (data / f"{name}.tif").read_bytes() for name in ("image", "dsm")}
        answer = httpx2.post(f"{address}segment", files=form, timeout=120)
        assert answer.status_code == 200, answer.text
        with MemoryFile(answer.content) as file, file.open() as classes:
            assert (classes.count, classes.dtypes, classes.nodata) == (1, ("uint8",), 255)
        for route, text in ROUTES.items():
            answer = httpx2.get(address + route)
            assert answer.status_code == 200
            assert text in answer.text
    assert server.returncode == 0
