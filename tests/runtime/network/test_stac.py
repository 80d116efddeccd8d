"""STAC items as scenes, from files and over the network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from web import Web

from mfnet_runtime.errors import SceneError, UsageError
from mfnet_runtime.network.url import Url
from mfnet_runtime.scene.discovery import Scene, scenes_from

COG = "image/tiff; application=geotiff; profile=cloud-optimized"


def asset(href: str, *roles: str, type: str = COG) -> dict[str, Any]:
    return {"href": href, "type": type, "roles": list(roles)}


def item(name: str = "town", **assets: Any) -> dict[str, Any]:
    return {"type": "Feature", "stac_version": "1.1.0", "id": name, "assets": assets}


def write(folder: Path, content: Any) -> Path:
    path = folder / "item.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


THUMBNAIL = asset("t.png", "visual", type="image/png")


@pytest.mark.parametrize(
    ("assets", "keys"),
    [
        ({"visual": asset("a.tif"), "dsm": asset("b.tif"), "dtm": asset("c.tif")}, ()),
        ({"x": asset("a.tif", "visual"), "y": asset("b.tif", "elevation"), "t": THUMBNAIL}, ()),
        ({"x": asset("a.tif", "data"), "Height": asset("b.tif")}, ()),
        ({"one": asset("a.tif", "data"), "two": asset("b.tif", "data")}, ("one", "two")),
    ],
)
def test_assets_are_chosen_by_key_or_role(
    tmp_path: Path, assets: dict[str, Any], keys: tuple[str, ...]
) -> None:
    (scene,) = scenes_from(write(tmp_path, item(**assets)), assets=keys)
    assert scene == Scene("town", tmp_path / "a.tif", tmp_path / "b.tif")


def test_a_dsm_from_elsewhere(tmp_path: Path) -> None:
    path = write(tmp_path, item(image=asset("https://h.org/a.tif?s=1")))
    image = Url("https://h.org/a.tif?s=1")
    (scene,) = scenes_from(path, tmp_path / "own.tif")
    assert (scene.image, scene.dsm) == (image, tmp_path / "own.tif")
    (scene,) = scenes_from(path, dsm_band=4)
    assert (scene.dsm, scene.dsm_band) == (image, 4)


def test_a_collection_of_items(tmp_path: Path) -> None:
    both = {"image": asset("a.tif"), "dsm": asset("b.tif")}
    features = [item("a", **both), item("b", **both)]
    path = write(tmp_path, {"type": "FeatureCollection", "features": features})
    assert [scene.name for scene in scenes_from(path)] == ["a", "b"]
    assert [scene.name for scene in scenes_from(path, only=["b"])] == ["b"]
    with pytest.raises(UsageError, match="holds 2 items, and --dsm is of one image"):
        scenes_from(path, tmp_path / "own.tif")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("no json", "is no STAC item"),
        ("[" * 100_000, "is no STAC item"),
        ("[1]", "is no STAC item"),
        ({"type": "Feature", "id": "a"}, r"is no STAC item \(KeyError\('assets'\)\)"),
        ({"type": "FeatureCollection", "features": []}, "holds no items"),
        (
            item("../a", image=asset("a.tif"), dsm=asset("b.tif")),
            r"name '\.\./a' cannot name an output file",
        ),
        (item(), r"has no single GeoTIFF for the image, but none at all; name the keys with --ass"),
        (item(image=asset("a.tif"), t=THUMBNAIL), r"for the DSM, but image \(\); name the keys"),
        (
            item(a=asset("a.tif", "data"), b=asset("b.tif", "data"), dsm=asset("c.tif")),
            r"for the image, but a \(data\), b \(data\), dsm \(\)",
        ),
        (
            item(image=asset("file:///etc/a.tif"), dsm=asset("b.tif")),
            "expected https://HOST/FILE",
        ),
    ],
)
def test_items_without_a_scene(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        scenes_from(write(tmp_path, content))
    assert str(caught.value).count("\n") == 0


def test_an_item_on_the_network_names_nothing_local(tmp_path: Path) -> None:
    pytest.importorskip("urllib3")
    write(tmp_path, item(image=asset("../x/a.tif"), dsm=asset("/etc/b.tif")))
    with Web(tmp_path).running() as web:
        url = Url(f"{web.origin}/ok/item.json?s=1")
        (scene,) = scenes_from(url, hosts=[web.origin])
        assert scene.image == Url(f"{web.origin}/x/a.tif")
        assert scene.dsm == Url(f"{web.origin}/etc/b.tif")
        with pytest.raises(SceneError, match="the network is off"):
            scenes_from(url)
        with pytest.raises(SceneError, match="answers 403 Forbidden"):
            scenes_from(Url(f"{web.origin}/403/item.json"), hosts=[web.origin])
