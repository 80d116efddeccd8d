"""STAC items of maps, read by PySTAC."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import rasterio
from rasterio import Affine
from rasterio.crs import CRS
from rasterio.warp import transform_bounds
from support import RGBD, write_rgbd_model, write_scene

from mfnet_runtime.cli.main import main
from mfnet_runtime.raster.stac import item_of_map

LOCAL = CRS.from_proj4("+proj=tmerc +lat_0=10 +lon_0=20 +ellps=GRS80 +units=m")


def require_valid(item: dict[str, Any]) -> None:
    pystac = pytest.importorskip("pystac")
    pytest.importorskip("jsonschema")
    validation = pytest.importorskip("pystac.validation.stac_validator")
    # The schemas of STAC's core come with PySTAC; those of extensions are on the network.
    kind = pystac.STACObjectType.ITEM
    validation.JsonSchemaSTACValidator().validate_core(item, kind, "1.1.0")


@pytest.mark.parametrize("layers", [False, True])
def test_a_run_writes_a_valid_item(tmp_path: Path, layers: bool) -> None:
    pystac = pytest.importorskip("pystac")
    scene, out = write_scene(tmp_path / "scenes", "town", 100, 120), tmp_path / "out"
    words: list[Any] = [write_rgbd_model(tmp_path / "m.onnx"), scene.image, "--dsm", scene.dsm]
    words += ["-o", out / "a b.tif", "--stac"]
    words += ["--confidence", "--probabilities"] if layers else []
    assert main([str(word) for word in words]) == 0
    text = (out / "a b.stac.json").read_text()
    require_valid(json.loads(text))
    item = pystac.Item.from_file(str(out / "a b.stac.json"))
    assert item.id == "a b"
    kinds = ["map", "confidence", "probabilities"] if layers else ["map"]
    assert list(item.assets) == kinds
    for asset in item.assets.values():
        assert Path(asset.get_absolute_href()).is_file()
    with rasterio.open(out / "a b.tif") as raster:
        assert item.properties["proj:code"] == raster.crs.to_string()
        assert item.properties["proj:shape"] == list(raster.shape)
        assert item.properties["proj:transform"] == list(raster.transform)[:6]
        assert item.bbox == pytest.approx(transform_bounds(raster.crs, "EPSG:4326", *raster.bounds))
        assert item.assets["map"].extra_fields["nodata"] == raster.nodata
    found = item.assets["map"].extra_fields["classification:classes"]
    assert [one["name"] for one in found] == list(RGBD.names)
    if layers:
        bands = json.loads(text)["assets"]["probabilities"]["bands"]
        assert [one["name"] for one in bands] == list(RGBD.names)
    manifest = (out / "manifest.jsonl").read_text()
    assert '"a b.stac.json"' in manifest


@pytest.mark.parametrize(
    ("place", "box"),
    [
        (
            {"crs": CRS.from_epsg(4326), "transform": Affine(0.1, 0, 10, 0, -0.1, 50)},
            (10, 49, 12, 50),
        ),
        ({"crs": LOCAL, "transform": Affine(1, 0, 0, 0, -1, 0)}, None),
        ({"crs": CRS.from_epsg(32660), "transform": Affine(9e3, 0, 6e5, 0, -9e3, 5e6)}, ()),
        ({"transform": Affine.identity()}, ()),
        ({"gcps": [], "crs": CRS.from_epsg(4326)}, ()),
    ],
)
def test_where_it_lies(place: dict[str, Any], box: tuple[float, ...] | None) -> None:
    item = json.loads(item_of_map("a", RGBD, place, (10, 20), {"map": Path("a.tif")}))
    require_valid(item)
    if box == ():
        assert item["geometry"] is None
        return
    if box is not None:
        assert item["bbox"] == pytest.approx(box)
    else:
        assert item["properties"]["proj:code"] is None
        assert CRS.from_wkt(item["properties"]["proj:wkt2"]) == LOCAL
    ring = item["geometry"]["coordinates"][0]
    assert ring[0] == ring[-1]
    area = sum(a[0] * b[1] - b[0] * a[1] for a, b in pairwise(ring))
    assert area > 0, "counter-clockwise"
