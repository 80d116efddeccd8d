"""Comparison of coordinate reference systems that are written differently."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.crs import CRS
from support import UTM, write_raster

from mfnet_runtime.raster.crs import differing_datums, same_horizontally

# UTM zones, European and other national grids, state planes in feet and metres, and degrees
CODES = (
    "25828 25829 25830 25831 25832 25833 25834 25835 32631 32632 32633 32612 32618 32760 3857 4326 "
    "4258 4269 4283 27700 2154 28992 31370 3812 3006 2056 21781 5514 2180 3794 31467 31468 3035 "
    "2326 2193 5070 7855 28355 3067 25884 26910 26917 26986 2263 2225 2272 3089 6543 6418 26949 "
    "2236 2100 23700 3765 31255 31287 3763 2039 3116 5880 31983 22185 2157 29902 2169 3346 3301 "
    "3059 7801 3826 2443 6677 32118 5186 4490 4548 9377 5016 3844 5650 4647 31256 2994"
).split()


def esri(code: int | str) -> CRS:
    return CRS.from_wkt(CRS.from_epsg(code).to_wkt(version="WKT1_ESRI"))


def plain(code: int | str) -> CRS:
    """WKT without a code in it."""
    text = CRS.from_epsg(code).to_wkt(version="WKT1_GDAL")
    return CRS.from_wkt(re.sub(r',AUTHORITY\["[^]]*\]', "", text))


def wkt2(code: int | str) -> CRS:
    return CRS.from_wkt(CRS.from_epsg(code).to_wkt(version="WKT2_2019"))


WRITTEN = (esri, plain, wkt2)


@pytest.mark.parametrize("code", CODES)
def test_one_crs_is_itself_however_it_is_written(code: str, tmp_path: Path) -> None:
    known = CRS.from_epsg(code)
    path = write_raster(
        tmp_path / "a.tif", np.zeros((1, 1), np.uint8), **{**UTM, "crs": esri(code)}
    )
    with rasterio.open(path) as stored:
        others = [stored.crs, *(write(code) for write in WRITTEN)]
    assert [same_horizontally(known, other) for other in others] == [True] * 4
    assert [same_horizontally(other, known) for other in others] == [True] * 4
    assert [differing_datums(known, other) for other in others] == [None] * 4


@pytest.mark.parametrize("apart", [1, 2, 5])
def test_no_two_crss_are_taken_for_one(apart: int) -> None:
    for one, other in zip(CODES, CODES[apart:], strict=False):
        assert not same_horizontally(CRS.from_epsg(one), esri(other)), (one, other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (25832, 32632),  # ETRS89 and WGS 84 drift apart, by 0.8 m so far
        (28355, 7855),  # GDA94 and GDA2020, 1.8 m apart
        (4269, 6318),  # NAD83 and NAD83(2011)
        (32632, 32633),
        (2225, 26941),  # US survey feet and metres
        (2994, 2991),  # international feet and metres
        (3857, 3395),  # Mercator on a sphere and on the ellipsoid
        (27700, 29902),
    ],
)
def test_differing_crss_stay_so(one: int, other: int) -> None:
    for write in (CRS.from_epsg, *WRITTEN):
        assert not same_horizontally(CRS.from_epsg(one), write(other))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (25832, 3044),  # axes in another order
        (3067, 5048),
        (5041, 32661),
        (25832, 5972),  # the national realisation of ETRS89, with heights
        (25832, 5555),  # with heights
        (27700, 7405),
        (28992, 7415),
        (4326, 9518),
    ],
)
@pytest.mark.parametrize("write", [CRS.from_epsg, *WRITTEN])
def test_axis_order_and_heights_do_not_matter(
    one: int, other: int, write: Callable[[int], CRS]
) -> None:
    assert same_horizontally(CRS.from_epsg(one), write(other))
    assert same_horizontally(write(one), CRS.from_epsg(other))
    assert differing_datums(CRS.from_epsg(one), write(other)) is None


def test_transformations_and_unknown_crss_do_not_matter() -> None:
    known, text = CRS.from_epsg(31467), plain(31467).to_wkt(version="WKT1_GDAL")
    ellipsoid = re.search(r"SPHEROID\[[^]]*\]", text)
    assert ellipsoid is not None
    shifted = text.replace(ellipsoid[0], f"{ellipsoid[0]},TOWGS84[598,74,418,0.2,0.04,-2.5,6.7]")
    assert "TOWGS84" in CRS.from_wkt(shifted).to_wkt(version="WKT1_GDAL")
    assert same_horizontally(known, CRS.from_wkt(shifted))
    assert same_horizontally(None, known)
    assert differing_datums(known, None) is None


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (25832, "+proj=utm +zone=32 +ellps=GRS80 +towgs84=0,0,0,0,0,0,0"),  # as R writes it
        (25832, "+proj=utm +zone=32 +ellps=GRS80"),
        (32632, "+proj=utm +zone=32 +ellps=WGS84"),
        (31467, "+proj=tmerc +lat_0=0 +lon_0=9 +k=1 +x_0=3500000 +y_0=0 +ellps=bessel"),
        (27700, "+proj=tmerc +lat_0=49 +lon_0=-2 +k=0.9996012717 +x_0=400000 +y_0=-100000 "
                "+ellps=airy"),
        (2154, "+proj=lcc +lat_0=46.5 +lon_0=3 +lat_1=49 +lat_2=44 +x_0=700000 +y_0=6600000 "
               "+ellps=GRS80"),
        (3857, "+proj=merc +a=6378137 +b=6378137 +lat_ts=0 +lon_0=0 +x_0=0 +y_0=0 +k=1 "
               "+nadgrids=@null +wktext"),
    ],
)  # fmt: skip
def test_a_datum_that_is_not_stated(code: int, text: str, tmp_path: Path) -> None:
    known, stated = CRS.from_epsg(code), CRS.from_proj4(f"{text} +units=m +no_defs")
    path = write_raster(tmp_path / "a.tif", np.zeros((1, 1), np.uint8), **{**UTM, "crs": stated})
    with rasterio.open(path) as stored:
        for crs in (stated, stored.crs):
            assert same_horizontally(known, crs)
            assert same_horizontally(crs, known)
            assert differing_datums(known, crs) is None
            assert not same_horizontally(crs, CRS.from_epsg(25833))
    assert not same_horizontally(CRS.from_epsg(25832), CRS.from_proj4("+proj=utm +zone=32"))


def test_differing_datums_are_named() -> None:
    assert differing_datums(CRS.from_epsg(27700), esri(32632)) == (
        "Ordnance Survey of Great Britain 1936",
        "World Geodetic System 1984",
    )
