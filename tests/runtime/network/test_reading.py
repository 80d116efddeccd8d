"""Rasters on the network: read exactly, or refused in one line; never blank pixels."""

from __future__ import annotations

import json
import logging
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio.windows import Window
from support import UTM, read, results_in, write_raster, write_rgbd_model, write_scene
from web import Web

from mfnet_runtime.cli.main import main
from mfnet_runtime.errors import SceneError
from mfnet_runtime.network import client, file
from mfnet_runtime.network.access import Access
from mfnet_runtime.network.file import RemoteFile, raising_faults
from mfnet_runtime.network.url import Url
from mfnet_runtime.raster.limits import RasterLimits
from mfnet_runtime.raster.open import open_raster, reading
from mfnet_runtime.run.inputs import Input, InputChangedError, require_unchanged
from mfnet_runtime.run.model import load
from mfnet_runtime.scene.discovery import Scene
from mfnet_runtime.scene.options import ReadOptions

pytest.importorskip("urllib3")
TILES = {"tiled": True, "blockxsize": 128, "blockysize": 128}


@pytest.fixture
def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    """A server of a raster of 1 MB, and a client without patience."""
    monkeypatch.setattr(client, "WAITS", (0.01, 0.01))
    monkeypatch.setattr(client, "SLOWEST", 1 << 30)
    pixels = np.random.default_rng(0).integers(1, 255, (3, 600, 600), np.uint8)
    write_raster(tmp_path / "web" / "a.tif", pixels, **UTM, **TILES)
    (tmp_path / "web" / "page.html").write_text("\n <!DOCTYPE html><html>Sign in</html>")
    with Web(tmp_path / "web").running() as server:
        yield server


def opened(web: Web, path: str) -> tuple[Url, Any]:
    url = Url(f"{web.origin}/{path}")
    return url, open_raster(url, RasterLimits(hosts=(web.origin,)))


def pixels_of(web: Web, path: str) -> Any:
    url, dataset = opened(web, path)
    with dataset, reading(url):
        return dataset.read()


@pytest.mark.parametrize("kind", ["ok", "flaky", "redirect"])
def test_the_pixels_are_those_of_the_file(web: Web, kind: str) -> None:
    web.to = f"{web.origin}/ok/a.tif?signature=2"
    found = pixels_of(web, f"{kind}/a.tif?signature=1")
    np.testing.assert_array_equal(found, read(web.folder / "a.tif", None))


@pytest.mark.parametrize("interleave", ["pixel", "band"])
def test_opening_takes_three_requests_and_reading_few(web: Web, interleave: str) -> None:
    how = {**UTM, **TILES, "interleave": interleave}
    write_raster(web.folder / "cog.tif", read(web.folder / "a.tif", None), **how)
    with rasterio.open(web.folder / "cog.tif", "r+") as cog:
        cog.build_overviews([2, 4])
    url, dataset = opened(web, "ok/cog.tif")
    assert len(web.asked) <= 3, web.asked
    with dataset, reading(url):
        for top in range(0, 600, 128):
            dataset.read(window=Window(0, top, 600, min(128, 600 - top)))
    # nothing else is looked for: no sidecar, no folder
    assert set(web.asked) == {"/ok/cog.tif"}
    # each of twice as many bytes as the one before, for each of the bands if they lie apart
    assert len(web.asked) <= 12, web.asked


def test_other_threads_read_too(web: Web) -> None:
    url, dataset = opened(web, "ok/a.tif")
    found: list[object] = []

    def work() -> None:
        with reading(url):
            found.append(dataset.read())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    dataset.close()
    np.testing.assert_array_equal(found[0], read(web.folder / "a.tif", None))


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("403/a.tif", r"answers 403 Forbidden \(Request has expired\); check the credentials; a"),
        ("ok/b.tif", r"answers 404 Not Found; check the address"),
        ("500/a.tif", r"answers 500 Internal Server Error, 3 times in a row; try again later"),
        ("norange/a.tif", r"sends whole files only; one that answers range requests is needed"),
        ("html/a.tif", r"is a web page, no raster; use the link to the file itself"),
        ("ok/page.html", r"is a web page"),
        ("ok/notes.txt", r"cannot be opened \(starts like no file of GTiff"),
        ("ok/a.png", r"only GeoTIFFs are read over the network"),
        ("ok/empty.tif", r"answers 416 .*; the file is empty"),
        ("loop/a.tif", r"redirects more than 5 times"),
        ("unknown/a.tif", r"does not tell its size \('bytes 0-65535/\*'\)"),
        ("dies/a.tif", r"answers 500 Internal Server Error, 3 times in a row"),
        ("hangup/a.tif", r"Remote end closed connection.*, 3 times in a row"),
        ("stall/a.tif", r"[Tt]imed out.*, 3 times in a row"),
        ("drip/a.tif", r"(sent \d+ bytes in|IncompleteRead).*, 3 times in a row"),
        ("cut/a.tif", r"IncompleteRead.*, 3 times in a row"),
        ("short/a.tif", r"sends \d+ bytes as 'bytes \d+-\d+/\d+'; expected 'bytes"),
        ("long/a.tif", r"sends more than the \d+ bytes it should"),
        ("shifted/a.tif", r"sends \d+ bytes as 'bytes \d+-\d+/\d+'; expected 'bytes"),
        ("changing/a.tif", r"has changed while it was read; start again with --restart"),
    ],
)
def test_faults_are_one_line_and_never_blank_pixels(
    web: Web, path: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if path.startswith(("stall", "drip")):
        monkeypatch.setattr(client, "SILENCE", 0.2)
    (web.folder / "notes.txt").write_text("notes" * 100)
    (web.folder / "empty.tif").touch()
    write_raster(web.folder / "a.png", np.ones((3, 16, 16), np.uint8))
    with (
        rasterio.Env(GDAL_NUM_THREADS=4),
        pytest.raises(SceneError, match=message) as caught,
    ):
        pixels_of(web, f"{path}?signature=secret")
    text = str(caught.value)
    assert text.startswith(f"{web.origin}/{path}: ")
    assert "\n" not in text
    assert "secret" not in text


def test_a_size_that_is_too_large_is_noticed(web: Web) -> None:
    size = (web.folder / "a.tif").stat().st_size
    remote = RemoteFile(Url(f"{web.origin}/larger/a.tif"), Access([web.origin]))
    assert remote.size == size + 1000
    with pytest.raises(SceneError, match="expected 'bytes"):
        remote.read(size - 10, size + 10)


def test_bytes_are_cached_within_bounds(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file, "CACHED", 4)
    monkeypatch.setattr(file, "AHEAD", 2)
    data = (web.folder / "a.tif").read_bytes()
    remote = RemoteFile(Url(f"{web.origin}/ok/a.tif"), Access([web.origin]))
    random = np.random.default_rng(1)
    for _ in range(50):
        start, length = int(random.integers(len(data))), int(random.integers(300_000))
        assert remote.read(start, start + length) == data[start : start + length]
        assert len(remote._blocks) <= 4 + 1


def test_an_interrupt_in_a_read_is_raised_after_it(web: Web) -> None:
    remote = RemoteFile(Url(f"{web.origin}/ok/a.tif"), Access([web.origin]))

    def interrupted(start: int, stop: int) -> bytes:
        raise KeyboardInterrupt

    remote.read = interrupted  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt), raising_faults():
        assert remote.open(file.NAME).read(5) == b""


@pytest.fixture
def scenes(tmp_path: Path, web: Web) -> Path:
    """A model, and a scene `a` in the folder of the server and in a table."""
    scene = write_scene(web.folder, "a", 100, 120)
    for role, path in (("image", scene.image), ("dsm", scene.dsm)):
        path.rename(web.folder / f"{role}.tif")
    write_rgbd_model(tmp_path / "m.onnx")
    rows = "image,dsm,name\n{0}/{1}/image.tif?s=1,{0}/ok/dsm.tif,far\n".format(web.origin, "ok")
    (tmp_path / "pairs.csv").write_text(rows + "web/image.tif,web/dsm.tif,near\n")
    return tmp_path


def run(*words: object) -> int:
    return main([str(word) for word in words])


@pytest.mark.parametrize("executor", ["local", "processes:1"])
def test_a_run_writes_what_it_writes_for_local_files(
    scenes: Path, web: Web, executor: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [scenes / "m.onnx", scenes / "pairs.csv", "-o", scenes / "out", "--executor", executor]
    words += ["--allow-network", web.origin]
    assert run(*words) == 0, capsys.readouterr().err
    far, near = scenes / "out" / "far.tif", scenes / "out" / "near.tif"
    assert far.read_bytes() == near.read_bytes()
    assert "s=1" not in (scenes / "out" / "manifest.jsonl").read_text()
    web.asked.clear()
    web.kind = "403"
    assert run(*words, "--resume") == 0
    assert web.asked == []  # what is finished needs its inputs no more


@pytest.mark.parametrize("change", ["bytes", "length", "tag"])
def test_a_file_that_changes_is_noticed(web: Web, change: str) -> None:
    url = Url(f"{web.origin}/ok/a.tif")
    scene, limits = Scene("a", url, url), RasterLimits(hosts=(web.origin,))
    inputs = [Input.of(scene, "image", url, limits)]
    require_unchanged(scene, inputs, limits, [("image", url)])
    data = (web.folder / "a.tif").read_bytes()
    if change == "tag":
        web.tag = "2"
    else:
        changed = data[:999] + b"x" + data[1000:] if change == "bytes" else data + b"x"
        (web.folder / "a.tif").write_bytes(changed)
    with pytest.raises(InputChangedError, match=r"/ok/a\.tif: has changed since the run began"):
        require_unchanged(scene, inputs, limits)
    require_unchanged(scene, inputs)  # not looked at


def test_one_scene_and_python(scenes: Path, web: Web, capsys: pytest.CaptureFixture[str]) -> None:
    image, dsm = f"{web.origin}/ok/image.tif", f"{web.origin}/ok/dsm.tif"
    words = [scenes / "m.onnx", image, "--dsm", dsm, "--allow-network", web.origin]
    assert run(*words, "--check") == 0, capsys.readouterr().err
    assert run(*words, "-o", scenes / "out") == 0, capsys.readouterr().err
    assert "image.tif" in results_in(scenes / "out")
    assets = {"rgb": {"href": "image.tif"}, "height": {"href": "./dsm.tif"}}
    item = {"type": "Feature", "id": "town", "assets": assets}
    (web.folder / "item.json").write_text(json.dumps(item))
    words[1:4] = [f"{web.origin}/ok/item.json", "--assets", "rgb,height"]
    assert run(*words, "-o", scenes / "stac") == 0, capsys.readouterr().err
    maps = [scenes / "out" / "image.tif", scenes / "stac" / "town.tif"]
    np.testing.assert_array_equal(read(maps[0]), read(maps[1]))
    with load(scenes / "m.onnx", "onnxruntime") as model:
        options = ReadOptions(allow_network=(web.origin,))
        row = model.segment(image, dsm=dsm, out=scenes / "py" / "a.tif", read=options)
        assert row["status"] == "done"
        with pytest.raises(SceneError, match="the network is off; add --allow"):
            model.segment(image, dsm=dsm, out=scenes / "off" / "a.tif")


def test_a_missing_extra_is_named(
    scenes: Path, web: Web, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "urllib3", None)
    words = [scenes / "m.onnx", scenes / "pairs.csv", "-o", scenes / "out"]
    assert run(*words, "--allow-network", web.origin) == 2
    assert "needs urllib3; install it with: pip install 'mfnet[network]'" in capsys.readouterr().err


def test_a_run_goes_on_when_the_server_is_back(
    scenes: Path, web: Web, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    words = [scenes / "m.onnx", scenes / "pairs.csv", "-o", scenes / "out"]
    words += ["--allow-network", web.origin]
    web.kind = "503"
    assert run(*words) == 4
    assert "/ok/image.tif: the server answers 503" in caplog.text
    assert "near.tif" in results_in(scenes / "out")
    web.kind = None
    assert run(*words, "--resume") == 0
    assert "far.tif" in results_in(scenes / "out")
