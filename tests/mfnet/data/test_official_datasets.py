"""`mfnet-train --dataset` on the official file layouts, with rasters of a few pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from rasterio.transform import from_origin
from support import UTM, write_raster

from mfnet.checkpoints.checkpoint import load_checkpoint
from mfnet.cli import main
from mfnet.data.datasets import (
    MMHUNAN_TEST,
    POTSDAM_TEST,
    POTSDAM_TRAIN,
    VAIHINGEN_TEST,
    VAIHINGEN_TRAIN,
)
from mfnet_bench.cli import main as bench
from mfnet_runtime.labels import ISPRS, MMHUNAN

SIDE = 40  # pixels
RNG = np.random.default_rng(0)
TINY = (
    "--from-scratch --backbone tiny --window 32 --epochs 1 --steps 2 --batch 2 --threads 1 "
    "--device cpu"
).split()


def image(bands: int = 3) -> np.ndarray:
    return RNG.integers(0, 255, (bands, SIDE, SIDE), dtype=np.uint8)


def heights(dtype: type = np.float32) -> np.ndarray:
    return RNG.uniform(200, 255, (SIDE, SIDE)).astype(dtype)


def colour_label(eroded: bool = False) -> np.ndarray:
    """ISPRS colours; eroded labels are black where classes meet."""
    index = RNG.integers(0, 6, (5, 5)).repeat(8, 0).repeat(8, 1)
    rgb = np.array(ISPRS.colours, np.uint8)[index].transpose(2, 0, 1)
    if eroded:
        rgb = rgb * (np.arange(SIDE) % 8 > 1).astype(np.uint8)
    return rgb


def vaihingen(root: Path) -> None:
    for area in (VAIHINGEN_TRAIN + " " + VAIHINGEN_TEST).split():
        write_raster(root / f"top/top_mosaic_09cm_area{area}.tif", image(), **UTM)
        # half a pixel off in the header alone, as between pixel-is-point and pixel-is-area
        dsm = root / f"dsm/dsm_09cm_matching_area{area}.tif"
        write_raster(
            dsm, heights(), crs=UTM["crs"], transform=from_origin(500000.25, 5400000, 0.5, 0.5)
        )
        name = f"top_mosaic_09cm_area{area}"
        write_raster(root / f"gts_for_participants/{name}.tif", colour_label(), **UTM)
        eroded = root / f"gts_eroded_for_participants/{name}_noBoundary.tif"
        write_raster(eroded, colour_label(True), **UTM)


def potsdam(root: Path) -> None:
    for tile in (POTSDAM_TRAIN + " " + POTSDAM_TEST).split():
        # GDAL flags the infrared band of such a file as alpha
        write_raster(root / f"4_Ortho_RGBIR/top_potsdam_{tile}_RGBIR.tif", image(4), **UTM)
        row, column = (f"{int(part):02}" for part in tile.split("_"))
        name = f"dsm_potsdam_{row}_{column}_normalized_lastools.jpg"
        write_raster(root / "1_DSM_normalisation" / name, heights(np.uint8))
        label = root / f"5_Labels_for_participants/top_potsdam_{tile}_label.tif"
        write_raster(label, colour_label(), **UTM)
        eroded = f"top_potsdam_{tile}_label_noBoundary.tif"
        write_raster(
            root / "5_Labels_for_participants_no_Boundary" / eroded, colour_label(True), **UTM
        )


def mmhunan(root: Path) -> None:
    for chip in ["1", "22", *MMHUNAN_TEST.split()]:
        write_raster(root / f"images_png/{chip}.png", image())
        write_raster(root / f"dsm_pngs/{chip}.png", heights(np.uint8))
        label = RNG.integers(-1, 7, (SIDE, SIDE)).astype(np.int8)
        write_raster(root / f"masks_png/{chip}.tif", label)


@pytest.mark.parametrize(
    ("make", "classes", "bands"),
    [
        (vaihingen, ISPRS, ("near infrared", "red", "green")),
        (potsdam, ISPRS, ("red", "green", "blue")),
        (mmhunan, MMHUNAN, ("red", "green", "blue")),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_trains_and_scores(  # type: ignore[no-untyped-def]
    tmp_path: Path, make, classes, bands, capsys: pytest.CaptureFixture[str]
) -> None:
    root, run = tmp_path / "data", tmp_path / "run"
    make(root)
    words = [str(root), "-o", str(run), "--dataset", make.__name__, *TINY]
    assert main(words) == 0
    contract = load_checkpoint(run / "best.pt").contract
    assert contract.classes == classes
    assert contract.image.bands == bands
    capsys.readouterr()
    asked = [str(run / "best.pt"), str(root), "--dataset", make.__name__, "--paper"]
    assert bench(["miou", *asked]) == 0
    out = capsys.readouterr().out
    assert ("clutter (not in the means)" in out) == (classes is ISPRS)
