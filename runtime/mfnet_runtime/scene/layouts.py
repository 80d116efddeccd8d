"""Published datasets: the files of their distributions, their classes, and how they are read.

Opens no raster.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from mfnet_runtime.errors import UsageError
from mfnet_runtime.labels import ISPRS, MMHUNAN, ClassTable
from mfnet_runtime.scene.options import ReadOptions


@dataclass(frozen=True)
class Layout:
    """A published dataset."""

    name: str
    image: str  # path below the dataset's folder; {} stands for the name of a tile
    dsm: str
    classes: ClassTable
    bands: tuple[int, int, int] = (1, 2, 3)  # of the images, from 1
    band_names: tuple[str, str, str] = ("red", "green", "blue")
    pixel_size: float | None = None  # metres on the ground
    drivers: tuple[str, ...] = ()  # of GDAL that its files need, in addition to GeoTIFF
    use_alpha: bool = True  # False: an alpha band holds data (Potsdam's near infrared)
    use_place: bool = True  # False: files match pixel by pixel, whatever their headers say

    def files(self, root: Path, tile: str) -> tuple[Path, Path]:
        """Return image and DSM of a tile, or where they should be."""
        # ISPRS pads the numbers in the names of Potsdam's DSMs only: 06_10, and 06_07 or 06_7.
        row, _, column = tile.partition("_")
        padded = [f"{row:0>2}_{column:0>2}", f"{row:0>2}_{column}"] if column else []
        heights = [root / self.dsm.format(spelling) for spelling in (*padded, tile)]
        dsm = next((path for path in heights if path.is_file()), heights[0])
        return root / self.image.format(tile), dsm

    def tiles(self, root: Path) -> list[str]:
        """Return the names of the tiles whose images are in a folder, in the order of the files."""
        before, after = (root / self.image).name.split("{}")
        found = sorted(path.name for path in root.glob(self.image.format("*")))
        return [name[len(before) : len(name) - len(after)] for name in found]

    def pairs(self, root: Path) -> dict[Path, Path]:
        """Return the DSM of each image in a folder, or where it should be.

        Raises:
            UsageError: There is no image.
        """
        tiles = self.tiles(root)
        if not tiles:
            raise UsageError(
                f"{root}: holds no {self.image.format('*')}; expected the {self.name} dataset there"
            )
        return dict(self.files(root, tile) for tile in tiles)

    def read_options(self, given: ReadOptions) -> ReadOptions:
        """Return how the dataset's files are read; bands that are given count."""
        return replace(
            given,
            bands=self.bands if given.bands is None else given.bands,
            band_names=self.band_names if given.bands is None else None,
            ignore_alpha=given.ignore_alpha or not self.use_alpha,
            use_place=given.use_place and self.use_place,
            pixel_size=self.pixel_size,
            allow_driver=(*given.allow_driver, *self.drivers),
        )


LAYOUTS = {
    layout.name: layout
    for layout in (
        Layout(
            "vaihingen",
            image="top/top_mosaic_09cm_area{}.tif",
            dsm="dsm/dsm_09cm_matching_area{}.tif",
            classes=ISPRS,
            band_names=("near infrared", "red", "green"),
            pixel_size=0.09,
            use_place=False,
        ),
        Layout(
            "potsdam",
            image="4_Ortho_RGBIR/top_potsdam_{}_RGBIR.tif",
            dsm="1_DSM_normalisation/dsm_potsdam_{}_normalized_lastools.jpg",
            classes=ISPRS,
            pixel_size=0.05,
            drivers=("JPEG",),
            use_alpha=False,
            use_place=False,
        ),
        Layout(
            "mmhunan",
            image="images_png/{}.png",
            dsm="dsm_pngs/{}.png",
            classes=MMHUNAN,
            drivers=("PNG",),
        ),
    )
}


def layout_in(root: Path) -> Layout | None:
    """Return the layout of the dataset in a folder; None if there is none, or scenes in image/."""
    if (root / "image").is_dir():
        return None
    for layout in LAYOUTS.values():
        if (root / layout.dsm).parent.is_dir() and layout.tiles(root):
            return layout
    return None
