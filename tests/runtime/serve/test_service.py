"""The service through FastAPI's test client: maps, polygons, and every refusal."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio.features
import rasterio.warp
from support import RGBD, UTM, LocalScene, read, write_raster, write_rgbd_model, write_scene

import mfnet_runtime as mf

pytest.importorskip("fastapi", reason="the extra serve is not installed")
from fastapi.testclient import TestClient

from mfnet_runtime.serve.app import create_app
from mfnet_runtime.serve.options import ServeOptions


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[mf.Model]:
    path = write_rgbd_model(tmp_path_factory.mktemp("model") / "best.onnx")
    with mf.load(path, "onnxruntime", threads=1) as model:
        yield model


@pytest.fixture(scope="module")
def client(model: mf.Model) -> Iterator[TestClient]:
    options = ServeOptions(max_pixels=10_000, max_upload=1 << 20)
    with TestClient(create_app(model, options)) as client:
        yield client


@pytest.fixture
def scene(tmp_path: Path) -> LocalScene:
    return write_scene(tmp_path, "ortho")


Part = Path | bytes | None


def files(image: Part, dsm: Part = None) -> dict[str, Any]:
    parts = {"image": image, "dsm": dsm}
    return {
        name: (f"../../etc/{name}", part.read_bytes() if isinstance(part, Path) else part)
        for name, part in parts.items()
        if part is not None
    }


def send(client: TestClient, scene: LocalScene, query: str = "", **more: Any) -> Any:
    return client.post(f"/segment{query}", files=files(scene.image, scene.dsm), **more)


@pytest.fixture
def expected(model: mf.Model, scene: LocalScene, tmp_path: Path) -> Path:
    model.segment(scene.image, scene.dsm, out=tmp_path / "maps" / "map.tif")
    return tmp_path / "maps" / "map.tif"


def test_class_map_is_that_of_the_command(
    client: TestClient, scene: LocalScene, expected: Path, tmp_path: Path
) -> None:
    answer = send(client, scene)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("image/tiff")
    assert answer.content == expected.read_bytes()


@pytest.mark.parametrize("by_header", [True, False])
def test_polygons_in_degrees(
    client: TestClient, scene: LocalScene, expected: Path, by_header: bool
) -> None:
    headers = {"Accept": "application/geo+json, */*;q=0.1"} if by_header else {}
    query = "?sieve=0" if by_header else "?sieve=0&format=geojson"
    answer = send(client, scene, query, headers=headers)
    assert answer.headers["content-type"] == "application/geo+json"
    features = answer.json()["features"]
    classes = read(expected)
    for index, name in enumerate(("red", "green", "blue", "high")):
        mine = [each["properties"] for each in features if each["properties"]["class"] == index]
        assert {each["name"] for each in mine} <= {name}
        m2 = (classes == index).sum() * 0.25
        assert sum(each["area_m2"] for each in mine) == pytest.approx(m2)
    # burnt into the grid again, they are the map
    shapes = [
        (
            rasterio.warp.transform_geom("OGC:CRS84", UTM["crs"], each["geometry"]),
            each["properties"]["class"],
        )
        for each in features
    ]
    burnt = rasterio.features.rasterize(
        shapes, classes.shape, fill=255, transform=UTM["transform"], dtype="uint8"
    )
    np.testing.assert_array_equal(burnt, classes)


def test_sieve_leaves_fewer_polygons(client: TestClient, scene: LocalScene) -> None:
    counts = [
        len(send(client, scene, f"?format=geojson&sieve={pixels}").json()["features"])
        for pixels in (0, 40)
    ]
    assert counts[1] < counts[0]


def test_json_has_map_previews_and_no_paths(
    client: TestClient, scene: LocalScene, expected: Path, tmp_path: Path
) -> None:
    answer = send(client, scene, "?format=json")
    found = answer.json()
    assert base64.b64decode(found["tif"]) == expected.read_bytes()
    assert [row["name"] for row in found["classes"]] == ["red", "green", "blue", "high"]
    assert sum(found["class_percent"].values()) == pytest.approx(100, abs=0.01)
    pictures = {}
    for name in ("image", "dsm", "classes"):
        path = tmp_path / f"{name}.png"
        path.write_bytes(base64.b64decode(found["previews"][name].partition(",")[2]))
        pictures[name] = read(path, None)
        assert pictures[name].shape == (2 if name == "dsm" else 4, 40, 48)
    colours = np.array(RGBD.colours)
    np.testing.assert_array_equal(
        pictures["classes"][:3], colours[read(expected)].transpose(2, 0, 1)
    )
    np.testing.assert_array_equal(pictures["image"][:3], read(scene.image, None))
    assert "mfnet-serve-" not in answer.text
    assert "output" not in found


def test_heights_in_a_band_and_on_another_grid(client: TestClient, scene: LocalScene) -> None:
    stack = np.concatenate([read(scene.image, None), read(scene.dsm)[None].astype(np.uint8)])
    both = write_raster(scene.image.with_name("both.tif"), stack, **UTM)
    assert client.post("/segment?dsm_band=4", files=files(both)).status_code == 200
    coarse = write_raster(
        scene.dsm.with_name("coarse.tif"),
        read(scene.dsm)[::2, ::2],
        crs=UTM["crs"],
        transform=UTM["transform"] * UTM["transform"].scale(2, 2),
    )
    moved = files(scene.image, coarse)
    assert "--align" in client.post("/segment", files=moved).json()["error"]
    answer = client.post("/segment?align=true&format=json", files=moved)
    assert answer.json()["alignment"]


def bomb(path: Path) -> Path:
    """A TIFF of a few kilobytes with 10^10 pixels."""
    options = {"tiled": True, "blockxsize": 4096, "blockysize": 4096, "sparse_ok": True}
    kind = {"driver": "GTiff", "count": 3, "dtype": "uint8", "compress": "deflate"}
    with rasterio.open(path, "w", width=100_000, height=100_000, **kind, **options, **UTM):
        pass
    assert path.stat().st_size < 50_000
    return path


def no_tiff(scene: LocalScene) -> dict[str, Any]:
    return files(b"not a raster", scene.dsm)


def cut_short(scene: LocalScene) -> dict[str, Any]:
    return files(scene.image.read_bytes()[:500], scene.dsm)


def a_vrt(scene: LocalScene) -> dict[str, Any]:
    return files(b"<VRTDataset rasterXSize='9' rasterYSize='9'/>", scene.dsm)


def a_png(scene: LocalScene) -> dict[str, Any]:
    return files(write_raster(scene.image.with_suffix(".png"), read(scene.image, None)), scene.dsm)


def a_bomb(scene: LocalScene) -> dict[str, Any]:
    return files(bomb(scene.image.with_name("bomb.tif")), scene.dsm)


def other_bands(scene: LocalScene) -> dict[str, Any]:
    return files(scene.dsm, scene.dsm)


def no_dsm(scene: LocalScene) -> dict[str, Any]:
    return files(scene.image)


def no_image(scene: LocalScene) -> dict[str, Any]:
    return {"dsm": scene.dsm.read_bytes()}


def whole(scene: LocalScene) -> dict[str, Any]:
    return files(scene.image, scene.dsm)


@pytest.mark.parametrize(
    ("upload", "query", "sentence"),
    [
        (no_tiff, "", "image.tif: cannot be opened (starts like no file of GTiff"),
        (cut_short, "", "image.tif: damaged or truncated ("),
        (a_vrt, "", "image.tif: is of GDAL's driver VRT"),
        (a_png, "", "image.tif: is of GDAL's driver PNG"),
        (a_bomb, "", "image.tif: is 100000 x 100000 px, together more than 10000"),
        (other_bands, "", "image.tif: has 1 bands"),
        (no_dsm, "", "image.tif: give its DSM"),
        (no_image, "", "image: expected a file of this name"),
        (whole, "?bands=1,2", "--bands '1,2': expected three band numbers"),
        (whole, "?bands=1,2,9", "image.tif: bands 1,2,9 asked for, the file has 3"),
        (whole, "?image_range=9&image_range=1", "--image-range 9 1: the first must be the smaller"),
        (whole, "?dsm_band=7", "dsm.tif: heights asked for in band 7, the file has 1"),
        (whole, "?format=gpkg", "format: Input should be 'tif', 'geojson' or 'json'"),
        (whole, "?path=/etc/passwd", "path: Extra inputs are not permitted"),
        (whole, "?sieve=4", "--sieve is about polygons"),
        (whole, "?nodata_image=nan", "nodata_image: Input should be a finite number"),
    ],
)
def test_refused_with_the_sentence_of_the_command(
    client: TestClient, scene: LocalScene, upload: Any, query: str, sentence: str
) -> None:
    answer = client.post(f"/segment{query}", files=upload(scene))
    assert answer.status_code == 422
    assert answer.json()["error"].startswith(sentence)
    assert "/" not in answer.json()["error"].replace("and/or", "")


def test_ground_control_points_give_no_polygons(client: TestClient, scene: LocalScene) -> None:
    points = [rasterio.control.GroundControlPoint(row, 2 * row, row, -row) for row in range(4)]
    for path in (scene.image, scene.dsm):
        write_raster(path, read(path, None), gcps=points, crs="EPSG:32632")
    assert "ground control points" in send(client, scene, "?format=geojson").json()["error"]


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("multipart/form-data; boundary=x", b"--x\r\nContent-Disposition: form-data; name"),
        ("multipart/form-data; boundary=x", b"\0" * 100),
        ("multipart/form-data", b"--x--"),
        ("application/json", b"{"),
        ("text/plain", b"image"),
    ],
)
def test_malformed_bodies(client: TestClient, kind: str, body: bytes) -> None:
    answer = client.post("/segment", content=body, headers={"Content-Type": kind})
    assert answer.status_code in (400, 422)
    assert answer.json()["error"]


def test_forms_have_no_more_parts_than_are_used(client: TestClient, scene: LocalScene) -> None:
    many = [("image", scene.image.read_bytes()), *[("more", b"x")] * 2]
    answer = client.post("/segment", files=many)
    assert (answer.status_code, answer.json()["error"][:15]) == (400, "Too many files.")
    answer = client.post("/segment", files=files(scene.image, scene.dsm), data={"note": "x"})
    assert (answer.status_code, answer.json()["error"][:16]) == (400, "Too many fields.")


@pytest.mark.parametrize("declared", [True, False])
def test_too_large(client: TestClient, scene: LocalScene, declared: bool) -> None:
    piece = b"x" * (1 << 16)
    body: Any = piece * 20 if declared else (piece for _ in range(20))
    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    answer = client.post("/segment", content=body, headers=kind)
    assert answer.status_code == 413
    assert answer.json()["error"].startswith("the request is larger than 1 MiB (--max-upload)")


def test_unknown_routes(client: TestClient) -> None:
    assert client.get("/segment").status_code == 405
    assert client.get("/../../etc/passwd").json() == {"error": "Not Found"}


def test_health_page_and_openapi(client: TestClient) -> None:
    health = client.get("/health")
    assert (health.status_code, health.json()["status"]) == (200, "ready")
    page = client.get("/")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "http" not in page.text.replace("http-equiv", "")  # no external resource
    paths = client.get("/openapi.json").json()["paths"]
    assert set(paths) >= {"/segment", "/health", "/metrics"}
    names = {each["name"] for each in paths["/segment"]["post"]["parameters"]}
    assert {"format", "align", "bands"} <= names


def test_metrics(model: mf.Model, scene: LocalScene) -> None:
    with TestClient(create_app(model)) as client:
        windows = send(client, scene, "?format=json").json()["windows"]
        client.post("/segment", files=files(b"x", b"y"))
        client.get("/nothing")
        lines = client.get("/metrics").text.splitlines()
    assert 'mfnet_requests_total{route="/segment",status="200"} 1.0' in lines
    assert 'mfnet_requests_total{route="/segment",status="422"} 1.0' in lines
    assert 'mfnet_requests_total{route="other",status="404"} 1.0' in lines
    assert "mfnet_queue 0.0" in lines
    assert f"mfnet_windows_total {windows}.0" in lines
