"""Hostile raster files: refused in one line, and no other file or URL is opened."""

from __future__ import annotations

import os
import resource
import struct
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import click
import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from support import UTM, LocalScene, run_python, write_raster, write_scene

from mfnet_runtime.cli.read_options import read_options
from mfnet_runtime.errors import SceneError, UsageError
from mfnet_runtime.raster.limits import GEOTIFF, LOCAL_ONLY, RasterLimits
from mfnet_runtime.raster.open import open_raster
from mfnet_runtime.scene.discovery import Scene
from mfnet_runtime.scene.options import ReadOptions
from mfnet_runtime.scene.reader import SceneReader

WITH_VRT = RasterLimits((GEOTIFF, "VRT"))
ONES = np.ones((1, 16, 16), np.uint8)


def vrt(path: Path, shows: Path) -> Path:
    path.write_text(
        '<VRTDataset rasterXSize="16" rasterYSize="16"><VRTRasterBand dataType="Byte" band="1">'
        f"<SimpleSource><SourceFilename>{shows}</SourceFilename><SourceBand>1</SourceBand>"
        "</SimpleSource></VRTRasterBand></VRTDataset>"
    )
    return path


def tiff_header(*tags: tuple[int, int, int, int], first: int = 8) -> bytes:
    """A TIFF without pixels; tags are (number, type, count, value)."""
    entries = b"".join(struct.pack("<HHII", *tag) for tag in sorted(tags))
    return struct.pack("<2sHIH", b"II", 42, first, len(tags)) + entries + bytes(4)


def sizes(height: int, width: int, tile: int, bands: int = 1) -> bytes:
    tiles = ((322, 4, 1, tile), (323, 4, 1, tile), (324, 4, 1, 200), (325, 4, 1, 100))
    return tiff_header(
        (256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 8), (262, 3, 1, 1),
        (277, 3, 1, bands), (284, 3, 1, 1), *tiles
    ).ljust(1000, b"\0")  # fmt: skip


def test_each_driver_but_geotiff_is_allowed_by_name(tmp_path: Path) -> None:
    alone = RasterLimits((GEOTIFF,))
    for suffix, driver in ((".png", "PNG"), (".jpg", "JPEG")):
        path = write_raster(tmp_path / f"a{suffix}", ONES)
        with pytest.raises(SceneError, match=rf"driver {driver}; allowed here: GTiff; .*-driver"):
            open_raster(path, alone)
        with open_raster(path, RasterLimits((GEOTIFF, driver))) as dataset:
            assert dataset.driver == driver


def test_a_driver_of_unknown_first_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.asc"
    path.write_text("ncols 2\nnrows 1\nxllcorner 0\nyllcorner 0\ncellsize 1\n3 4\n")
    with pytest.raises(SceneError, match=r"a\.asc: .*starts like no file of GTiff, PNG, JPEG"):
        open_raster(path)
    for drivers in ((GEOTIFF, "AAIGrid"), ("HFA", "AAIGrid"), ("AAIGrid", "HFA")):
        with open_raster(path, RasterLimits(drivers)) as dataset:
            assert dataset.read(1).tolist() == [[3, 4]]


def test_mfnet_run_reads_geotiff_alone() -> None:
    seen: list[ReadOptions] = []

    @click.command()
    @read_options()
    def command(read: ReadOptions) -> None:
        seen.append(read)

    command.main([], standalone_mode=False)
    command.main(["--allow-driver", "PNG", "--max-pixels", "9"], standalone_mode=False)
    assert [asked.limits.drivers for asked in seen] == [("GTiff",), ("GTiff", "PNG")]
    assert seen[1].limits.max_pixels == 9
    with pytest.raises(UsageError, match=r"--allow-driver PNGG: GDAL has no such driver here"):
        command.main(["--allow-driver", "PNGG"], standalone_mode=False)
    with pytest.raises(UsageError, match=r"--allow-driver WMS: reads from the network"):
        RasterLimits(("GTiff", "WMS"))


@pytest.mark.parametrize("name", ["a.vrt", "a.tif", "a.png"])
def test_a_vrt_is_refused_whatever_its_name(tmp_path: Path, name: str) -> None:
    write_raster(tmp_path / "b.tif", ONES)
    with pytest.raises(SceneError, match=r"driver VRT; .*allow it with --allow-driver VRT"):
        open_raster(vrt(tmp_path / name, tmp_path / "b.tif"))


def test_an_allowed_vrt_is_trusted(tmp_path: Path) -> None:
    write_raster(tmp_path / "b.tif", ONES * 5, **UTM)
    with open_raster(vrt(tmp_path / "a.vrt", tmp_path / "b.tif"), WITH_VRT) as dataset:
        assert (dataset.read() == 5).all()


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A raster outside of the folder a/."""
    (tmp_path / "a").mkdir()
    return write_raster(tmp_path / "secret.tif", ONES * 7)


def refused(path: Path, message: str) -> None:
    with pytest.raises(SceneError, match=message) as caught:
        open_raster(path)
    assert str(path.parent) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_masks_are_as_limited_as_their_raster(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "c.tif", ONES, **UTM)
    (tmp_path / "c.tif.msk").write_bytes(sizes(30_000, 30_000, 30_000))
    refused(path, r"c\.tif\.msk: is stored in blocks of 30000 x 30000 px")


@pytest.mark.parametrize("name", ["b.tif.msk", "b.TIF.MSK", "b.tif.ovr"])
def test_a_mask_or_overviews_that_are_a_vrt(tmp_path: Path, secret: Path, name: str) -> None:
    path = write_raster(tmp_path / "a" / "b.tif", ONES)
    vrt(path.with_name(name), secret)
    refused(path, rf"{name}: is no TIFF, as beside b\.tif it must be; remove it")


@pytest.mark.parametrize("inside", [False, True])
def test_overviews_that_lie_elsewhere(tmp_path: Path, secret: Path, inside: bool) -> None:
    path = write_raster(tmp_path / "a" / "b.tif", ONES, **UTM)
    if inside:
        with rasterio.open(path, "r+") as dataset:
            dataset.update_tags(ns="OVERVIEWS", OVERVIEW_FILE=str(secret))
    else:
        path.with_name("b.tif.aux.xml").write_text(
            f'<PAMDataset><Metadata domain="OVERVIEWS"><MDI key="OVERVIEW_FILE">{secret}</MDI>'
            "</Metadata></PAMDataset>"
        )
    refused(path, rf"b\.tif: names '{secret}' as its overviews; expected them in b\.tif\.ovr")


@pytest.fixture
def server() -> Iterator[tuple[str, list[str]]]:
    """An address, and what it was asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}", asked
        http.shutdown()


def test_gdal_fetches_nothing(server: tuple[str, list[str]]) -> None:
    """Run in processes of their own: GDAL reads its settings once."""
    url, asked = server
    tried = f"""
import rasterio
for path in ("/vsicurl/{url}/a.tif", "/vsis3/b/a.tif", "{url}/a.png", "WMS:{url}/a",
             "WCS:{url}/a", "/vsicurl_streaming/{url}/a.tif"):
    try:
        rasterio.open(path)
    except rasterio.errors.RasterioError:
        pass
"""
    variables = {**os.environ, "AWS_S3_ENDPOINT": url[7:], "AWS_HTTPS": "NO"}
    variables |= {"AWS_NO_SIGN_REQUEST": "YES", "AWS_VIRTUAL_HOSTING": "FALSE"}
    for name in ("GDAL_SKIP", "CPL_VSIL_CURL_ALLOWED_FILENAME"):
        variables.pop(name, None)
    local = "from mfnet_runtime.raster.limits import keep_gdal_local; keep_gdal_local()"
    for before, fetches in (("", True), (local, False)):
        asked.clear()
        done = run_python(before + tried, env=variables, timeout=60)
        assert done.returncode == 0, done.stderr
        assert bool(asked) == fetches, asked


def test_python_is_as_guarded_as_the_command(tmp_path: Path, server: tuple[str, list[str]]) -> None:
    """A VRT and a mask fetch nothing, and the rest of the program may go on fetching."""
    url, asked = server
    vrt(tmp_path / "a.vrt", Path(f"/vsicurl/{url}/a.tif"))
    write_raster(tmp_path / "b.tif", ONES)
    overviews = f"<MDI key='OVERVIEW_FILE'>/vsicurl/{url}/b.tif</MDI>"
    (tmp_path / "b.tif.aux.xml").write_text(
        f"<PAMDataset><Metadata domain='OVERVIEWS'>{overviews}</Metadata></PAMDataset>"
    )
    tried = f"""
import rasterio
from pathlib import Path
from mfnet_runtime.errors import SceneError
from mfnet_runtime.raster.limits import RasterLimits
from mfnet_runtime.raster.open import open_raster, reading
for name in ("a.vrt", "b.tif"):
    path = Path({str(tmp_path)!r}) / name
    try:
        with open_raster(path, RasterLimits(("GTiff", "VRT"))) as dataset, reading(path):
            dataset.read(1)
        print("read", name)
    except SceneError:
        pass
try:
    rasterio.open("/vsicurl/{url}/own.tif")
except rasterio.errors.RasterioError:
    pass
"""
    variables = {name: value for name, value in os.environ.items() if name not in LOCAL_ONLY}
    done = run_python(tried, env=variables, timeout=60)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert "/own.tif" in asked
    assert not {path for path in asked if path.startswith(("/a.tif", "/b.tif"))}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            sizes(2_000_000, 2_000_000, 256),
            r"is 2000000 x 2000000 px, .* --max-pixels 4000000000000,",
        ),
        (sizes(30_000, 30_000, 30_000), r"blocks of 30000 x 30000 px, 858 MiB each; .*TILED=YES"),
        (sizes(16_000, 16_000, 16_000, 3), r"blocks of 16000 x 16000 px, 732 MiB each"),
        (sizes(10, 10, 16, 5000), r"has 5000 bands; at most 4096 are read"),
        (tiff_header(first=0), r"cannot be opened \(.*\); check it with gdalinfo"),
        (tiff_header(first=8), r"cannot be opened"),
        (tiff_header(first=1 << 31), r"cannot be opened"),
    ],
)
def test_headers_of_absurd_sizes(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "bad.tif"
    path.write_bytes(content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(SceneError, match=rf"bad\.tif: .*{message}"):
        open_raster(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB


def test_as_many_pixels_as_allowed(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", ONES)
    open_raster(path, RasterLimits(max_pixels=256)).close()
    with pytest.raises(
        SceneError, match=r"is 16 x 16 px, together more than 255; .*--max-pixels 256,"
    ):
        open_raster(path, RasterLimits(max_pixels=255))


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.tif")
    (tmp_path / "folder.tif").mkdir()
    (tmp_path / "loop.tif").symlink_to("loop.tif")
    (tmp_path / "zero.tif").symlink_to("/dev/zero")
    (tmp_path / "gone.tif").symlink_to("nowhere.tif")
    started = time.monotonic()
    for name, message in (
        ("pipe", "a pipe or device, no regular file"),
        ("folder", "a folder"),
        ("loop", "Too many levels of symbolic links"),
        ("zero", "a pipe or device, no regular file"),
        ("gone", "No such file"),
    ):
        scene = write_scene(tmp_path / "scenes", name)
        scene.image.unlink()
        scene.image.symlink_to(tmp_path / f"{name}.tif")
        with pytest.raises(SceneError, match=rf"{name}\.tif: cannot be opened \(.*{message}"):
            SceneReader(scene)
    assert time.monotonic() - started < 10


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read any file")
def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", ONES)
    path.chmod(0)
    with pytest.raises(SceneError, match=r"a\.tif: cannot be opened \(.*Permission denied"):
        open_raster(path)


@pytest.mark.parametrize(
    "name",
    ["a b.tif", "ü.tif", "a\nb.tif", "-x.tif", "a?b#c!.tif", "%2e.tif", "zip:a.tif",
     "GTIFF_DIR:1:x.tif", "x" * 251 + ".tif"],
)  # fmt: skip
def test_file_names_are_never_read_as_urls_or_options(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_raster(tmp_path / "a.tif", ONES).rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    with open_raster(Path(name)) as dataset:
        assert (dataset.read() == 1).all()


@pytest.fixture(scope="module", params=[False, True], ids=["strips", "tiles"])
def sound(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LocalScene:
    tiles = {"tiled": True, "blockxsize": 16, "blockysize": 16} if request.param else {}
    folder, profile = tmp_path_factory.mktemp("sound"), {"compress": "deflate", **tiles}
    return write_scene(folder, "a", 32, 32, image_profile=profile)


@settings(max_examples=30)
@given(flips=st.dictionaries(st.integers(0, 700), st.integers(0, 255), min_size=1, max_size=8))
def test_flipped_bytes(sound: LocalScene, flips: dict[int, int]) -> None:
    """A changed file is read or refused; no other error is raised."""
    changed = bytearray(sound.image.read_bytes())
    for place, value in flips.items():
        changed[place % len(changed)] = value
    path = sound.image.with_name("changed.tif")
    path.write_bytes(changed)
    message = str(path)
    try:
        with SceneReader(Scene("a", path, sound.dsm)) as reader:
            reader.report()
            reader.read(0, reader.height)
    except SceneError as fault:
        message = str(fault)
    assert str(path) in message or str(sound.dsm) in message
