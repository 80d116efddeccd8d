"""STAC items as scenes: an asset for the image, one for the DSM. Opens no raster."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urljoin

from mfnet_runtime.errors import UsageError
from mfnet_runtime.network.access import Access, NetworkError
from mfnet_runtime.network.client import Client
from mfnet_runtime.network.file import RemoteError
from mfnet_runtime.network.url import RasterPath, Url

ITEM_SUFFIXES = (".json", ".geojson")
MAX_BYTES = 16 << 20
Pair = tuple[str, RasterPath, RasterPath | None]  # name, image, and DSM if it is known
# Keys or roles of assets, in order of preference.
NAMES = {
    "image": ("image", "ortho", "orthophoto", "rgb", "visual", "data"),
    "DSM": ("dsm", "ndsm", "surface", "elevation", "height", "dem"),
}


def pairs_from_stac(
    source: RasterPath, keys: Sequence[str], with_dsm: bool, hosts: Sequence[str]
) -> list[Pair]:
    """Read an item, or a collection of items (`FeatureCollection`).

    Args:
        source: The file, or its address.
        keys: Of the assets that are image and DSM; none chooses them by `NAMES`.
        with_dsm: The item holds the DSM, too.
        hosts: That may be read; see `Access`.

    Returns:
        Name, image, and DSM or None.

    Raises:
        UsageError: It is no item, or has no such assets.
        RemoteError: It cannot be read over the network.
    """
    try:
        found = json.loads(_content(source, hosts))
        items = found["features"] if found["type"] == "FeatureCollection" else [found]
        return [_pair(source, item, keys, with_dsm) for item in items]
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as fault:
        raise UsageError(f"{source}: is no STAC item ({fault!r:.200})") from fault


def _pair(source: RasterPath, item: Any, keys: Sequence[str], with_dsm: bool) -> Pair:
    assets = {
        key: asset
        for key, asset in item["assets"].items()
        if "tiff" in asset.get("type", "tiff").lower()
    }
    image = _asset(source, assets, "image", keys[:1])
    dsm = _asset(source, assets, "DSM", keys[1:]) if with_dsm else None
    return str(item["id"]), image, dsm


def _content(source: RasterPath, hosts: Sequence[str]) -> bytes:
    if not isinstance(source, Url):
        return source.read_bytes()
    try:
        return Client(source, Access(hosts)).get(MAX_BYTES)[0]
    except NetworkError as fault:
        raise RemoteError(f"{source}: {fault}") from fault


def _asset(
    source: RasterPath, assets: Mapping[str, Any], part: str, keys: Sequence[str]
) -> RasterPath:
    """Return the location of the one asset with these keys, or else with a name of the part."""
    roles = {key: asset.get("roles") or [] for key, asset in assets.items()}
    matches = [[key for key in assets if key == asked] for asked in keys]
    if not keys:
        for name in NAMES[part]:
            matches.append([key for key in assets if key.lower() == name])
            matches.append([key for key in assets if name in roles[key]])
    found = next((keys[0] for keys in matches if len(keys) == 1), None)
    if found is None:
        listed = ", ".join(f"{key} ({' '.join(roles[key])})" for key in assets)
        raise UsageError(
            f"{source}: has no single GeoTIFF for the {part}, but {listed or 'none at all'}; name "
            "the keys with --assets IMAGE,DSM"
        )
    href = assets[found]["href"]
    if isinstance(source, Url):  # what a remote item names is remote
        return Url(urljoin(source.text, href))
    return Url(href) if "://" in href else source.parent / href
