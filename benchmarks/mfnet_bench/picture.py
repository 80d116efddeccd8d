"""One figure of a scene: image, height model, predicted classes and, if given, the reference.

Class names and colours come from the class map, into which the runtime wrote them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rasterio.enums import Resampling
from rasterio.errors import RasterioError

from mfnet_runtime.errors import MFNetError, ResourceError, SceneError
from mfnet_runtime.labels import IGNORE, ClassTable
from mfnet_runtime.raster.limits import DEFAULT_LIMITS, RasterLimits
from mfnet_runtime.run.outputs import CLASSES_TAG
from mfnet_runtime.scene.reader import open_raster

PANEL = 700  # pixels of the longer side of a raster as drawn, at most
METRES_PER_DEGREE = 111_320.0  # of latitude; only relief shading depends on it
WIDTH, BAR, HEAD, FOOT, DPI = 4.5, 0.5, 0.4, 0.45, 150  # inches, dots per inch
HEIGHT_TINTS = ("#2f5d73", "#6c9f8a", "#c9cf9d", "#efdcae", "#dd9a62", "#a5484a")  # low to high

Rgb = npt.NDArray[np.uint8]  # (row, column, 3), as matplotlib takes it


@dataclass(frozen=True)
class View:
    """A raster reduced to the size of a panel."""

    values: npt.NDArray[Any]  # (band, row, column)
    valid: npt.NDArray[np.bool_]  # (row, column)
    pixel: float  # metres per pixel of the view; without georeference, raster pixels
    palette: dict[int, tuple[int, ...]] | None
    names: str | None  # the tag of the class table, as found


def read_view(
    path: Path, resampling: Resampling, bands: int, limits: RasterLimits = DEFAULT_LIMITS
) -> View:
    """Read the first bands of a raster, decimated to at most `PANEL` pixels a side.

    Raises:
        SceneError: The raster cannot be read.
    """
    try:
        with open_raster(path, limits) as raster:
            factor = max(1.0, max(raster.height, raster.width) / PANEL)
            shape = (max(1, round(raster.height / factor)), max(1, round(raster.width / factor)))
            wanted = list(range(1, min(bands, raster.count) + 1))
            data = raster.read(
                wanted, out_shape=(len(wanted), *shape), resampling=resampling, masked=True
            )
            degrees = raster.crs is not None and raster.crs.is_geographic
            metres = METRES_PER_DEGREE if degrees else 1.0
            return View(
                values=np.ma.getdata(data),
                valid=np.asarray(~np.ma.getmaskarray(data).any(0)),
                pixel=abs(float(raster.transform.a)) * factor * metres,
                palette=_palette(raster),
                names=raster.tags().get(CLASSES_TAG),
            )
    except (RasterioError, OSError) as fault:
        raise SceneError(f"{path}: cannot be read: {fault}") from fault


def draw_picture(
    image: Path,
    dsm: Path,
    class_map: Path,
    label: Path | None,
    out: Path,
    limits: RasterLimits = DEFAULT_LIMITS,
) -> None:
    """Write the figure; the suffix of `out` decides its format, and `limits` what may be opened.

    Raises:
        SceneError: A raster cannot be read, or the class map has a malformed class table.
        ResourceError: `out` cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    photo = read_view(image, Resampling.average, 3, limits)
    heights = read_view(dsm, Resampling.average, 1, limits)
    predicted = read_view(class_map, Resampling.nearest, 3)
    classes = _class_table(class_map, predicted)
    maps = {"classes": predicted}
    if label is not None:
        maps["reference"] = read_view(label, Resampling.nearest, 3, limits)
    count = 2 + len(maps)
    rows, columns = photo.valid.shape
    height = WIDTH * rows / columns + HEAD + (FOOT if classes else 0)
    figure = Figure(figsize=(count * WIDTH + BAR, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, count)
    for axes, title in zip(panels, ("image", "height model", *maps), strict=True):
        axes.set_title(title, fontsize=11, color="0.2")
        axes.set_axis_off()
    panels[0].imshow(photo_rgb(photo), interpolation="antialiased")
    _draw_heights(panels[1], heights)
    for axes, view in zip(panels[2:], maps.values(), strict=True):
        colours = class_rgb(view, classes, predicted.palette)
        axes.imshow(colours, interpolation="antialiased")
    if classes is not None:
        _draw_legend(figure, classes, list(maps.values()))
    try:
        figure.savefig(out, facecolor="white")
    except (OSError, ValueError) as fault:
        raise ResourceError(f"{out}: cannot write the figure: {fault}") from fault


def photo_rgb(view: View) -> Rgb:
    """Return an image to show: 8-bit as it is, others from their 1st to their 99th percentile."""
    bands = view.values if len(view.values) == 3 else np.repeat(view.values[:1], 3, 0)
    if bands.dtype != np.uint8:
        known = bands[:, view.valid].astype(np.float64)
        low, high = np.percentile(known, (1, 99)) if known.size else (0.0, 1.0)
        bands = np.clip((bands - low) / max(high - low, 1e-9) * 255, 0, 255).astype(np.uint8)
    return np.where(view.valid[..., None], np.moveaxis(bands, 0, -1), 255).astype(np.uint8)


def class_rgb(
    view: View, classes: ClassTable | None, palette: dict[int, tuple[int, ...]] | None
) -> Rgb:
    """Return classes in their colours, nodata in white; colour-coded rasters as they are."""
    if len(view.values) == 3:
        return np.where(view.valid[..., None], np.moveaxis(view.values, 0, -1), 255).astype(
            np.uint8
        )
    index = view.values[0].astype(np.int64)
    known = view.valid & (index >= 0) & (index < IGNORE)
    table = np.zeros((256, 3), np.uint8)
    numbered = ClassTable.numbered(IGNORE).colours  # for a raster without colours
    for value in range(IGNORE):
        if classes is not None and value < len(classes):
            table[value] = classes.colours[value]
        else:
            table[value] = (palette or view.palette or {}).get(value, numbered[value])[:3]
    return np.where(known[..., None], table[np.where(known, index, 0)], 255).astype(np.uint8)


def _draw_heights(axes: Any, view: View) -> None:
    """Draw heights in colour under a relief lit from the north-west, and a bar in metres."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LightSource, LinearSegmentedColormap, Normalize

    height = view.values[0].astype(np.float64)
    known = view.valid & np.isfinite(height)
    low, high = np.percentile(height[known], (0.5, 99.5)) if known.any() else (0.0, 1.0)
    scale = Normalize(low, max(high, low + 0.1))
    tints = LinearSegmentedColormap.from_list("heights", HEIGHT_TINTS)
    filled = np.where(known, height, low)
    relief = LightSource(315, 45).hillshade(filled, vert_exag=0.5, dx=view.pixel, dy=view.pixel)
    shaded = np.clip(tints(scale(filled))[..., :3] * (0.3 + relief[..., None]), 0, 1)
    shaded[~known] = 1
    axes.imshow(shaded, interpolation="antialiased")
    bar = axes.figure.colorbar(ScalarMappable(scale, tints), ax=axes, fraction=0.03, pad=0.01)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=9, length=2, color="0.4", labelcolor="0.2")
    bar.ax.set_title("m", fontsize=9, color="0.2")


def _draw_legend(figure: Any, classes: ClassTable, views: list[View]) -> None:
    """Name the classes that can be seen, under the panels."""
    from matplotlib.patches import Patch

    seen: set[int] = set()
    for view in views:
        if len(view.values) == 1:
            seen.update(int(value) for value in np.unique(view.values[0][view.valid]))
    handles = [
        Patch(
            facecolor="#{:02x}{:02x}{:02x}".format(*classes.colours[index]),
            edgecolor="0.6",
            linewidth=0.4,
            label=classes.names[index].replace("$", r"\$"),  # no formulas in names
        )
        for index in sorted(seen)
        if index < len(classes)
    ]
    if handles:
        figure.legend(
            handles=handles,
            loc="outside lower center",
            ncols=min(len(handles), 8),
            frameon=False,
            fontsize=11,
            handlelength=1.1,
            handleheight=1.1,
        )


def _class_table(path: Path, view: View) -> ClassTable | None:
    if view.names is None:
        return None
    try:
        return ClassTable.from_json(json.loads(view.names))
    except (ValueError, MFNetError) as fault:
        raise SceneError(f"{path}: tag {CLASSES_TAG} is no class table: {fault}") from fault


def _palette(raster: Any) -> dict[int, tuple[int, ...]] | None:
    try:
        found: dict[int, tuple[int, ...]] = raster.colormap(1)
    except ValueError:  # there is none
        return None
    return found
