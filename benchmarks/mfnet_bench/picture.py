"""One figure of a scene: image, height model, predicted classes and, if given, the reference.

    mfnet-bench picture IMAGE DSM CLASSMAP [LABEL] -o out.png

Knows class names and colours only from what the runtime wrote into the class map.
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
from mfnet_runtime.labels import IGNORE, ClassTable, Colour
from mfnet_runtime.run.classmap import CLASSES_TAG
from mfnet_runtime.scene.reader import open_raster

PANEL = 700  # pixels of the longer side of a panel, at most
DPI = 150
METRES_A_DEGREE = 111_320.0  # of latitude; only relief shading depends on it
WIDTH, GAP, BAR, HEAD, FOOT = 4.5, 0.12, 0.52, 0.34, 0.45  # inches
HEIGHT_TINTS = ("#2f5d73", "#6c9f8a", "#c9cf9d", "#efdcae", "#dd9a62", "#a5484a")  # low to high

Rgb = npt.NDArray[np.uint8]  # (row, column, 3), as matplotlib takes it


@dataclass(frozen=True)
class View:
    """A raster brought down to panel size."""

    values: npt.NDArray[Any]  # (band, row, column)
    valid: npt.NDArray[np.bool_]  # (row, column)
    pixel: float  # metres on the ground a shown pixel; 1 a raster pixel without a place
    palette: dict[int, tuple[int, ...]] | None
    names: str | None  # the tag, as found


def read_view(path: Path, resampling: Resampling, bands: int) -> View:
    """The first bands of a raster, decimated to at most 700 pixels a side.

    Raises:
        SceneError: the raster cannot be read.
    """
    try:
        with open_raster(path) as raster:
            factor = max(1.0, max(raster.height, raster.width) / PANEL)
            shape = (max(1, round(raster.height / factor)), max(1, round(raster.width / factor)))
            wanted = list(range(1, min(bands, raster.count) + 1))
            data = raster.read(
                wanted, out_shape=(len(wanted), *shape), resampling=resampling, masked=True
            )
            degrees = raster.crs is not None and raster.crs.is_geographic
            metres = METRES_A_DEGREE if degrees else 1.0
            return View(
                values=np.ma.getdata(data),
                valid=np.asarray(~np.ma.getmaskarray(data).any(0)),
                pixel=abs(float(raster.transform.a)) * factor * metres,
                palette=_palette(raster),
                names=raster.tags().get(CLASSES_TAG),
            )
    except (RasterioError, OSError) as fault:
        raise SceneError(f"{path}: cannot be read: {fault}") from fault


def draw_picture(image: Path, dsm: Path, class_map: Path, label: Path | None, out: Path) -> None:
    """Write the figure; its format follows from the suffix of `out`.

    Raises:
        SceneError: a raster cannot be read, or the class map has a malformed class table.
        ResourceError: `out` cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    photo = read_view(image, Resampling.average, 3)
    heights = read_view(dsm, Resampling.average, 1)
    predicted = read_view(class_map, Resampling.nearest, 3)
    classes = _classes(class_map, predicted)
    panels: list[tuple[str, Rgb]] = [
        ("image", photo_rgb(photo)),
        ("height model", np.zeros((1, 1, 3), np.uint8)),  # shaded below, it has a colour bar
        ("classes", class_rgb(predicted, classes, predicted.palette)),
    ]
    views = [predicted]
    if label is not None:
        reference = read_view(label, Resampling.nearest, 3)
        views.append(reference)
        panels.append(("reference", class_rgb(reference, classes, predicted.palette)))

    rows, columns = photo.valid.shape
    high = WIDTH * rows / columns
    size = (len(panels) * (WIDTH + GAP) + GAP + BAR, high + HEAD + (FOOT if classes else GAP))
    figure = Figure(figsize=size, dpi=DPI)
    FigureCanvasAgg(figure)

    def axes_at(left: float, width: float) -> Any:
        bottom = size[1] - HEAD - high
        return figure.add_axes((left / size[0], bottom / size[1], width / size[0], high / size[1]))

    left = GAP
    for title, picture in panels:
        axes = axes_at(left, WIDTH)
        axes.set_title(title, fontsize=11, pad=5, color="0.2")
        axes.set_axis_off()
        left += WIDTH + GAP
        if title == "height model":
            _draw_heights(axes, axes_at(left - 0.03, 0.11), heights)
            left += BAR
        else:
            axes.imshow(picture, interpolation="antialiased", aspect="auto")
    if classes is not None:
        _draw_legend(figure, classes, views)
    try:
        figure.savefig(out, facecolor="white")
    except (OSError, ValueError) as fault:
        raise ResourceError(f"{out}: cannot write the figure: {fault}") from fault


def photo_rgb(view: View) -> Rgb:
    """An image as shown: 8-bit as it is, anything else between its 1st and 99th percentile."""
    bands = view.values if len(view.values) == 3 else np.repeat(view.values[:1], 3, 0)
    if bands.dtype != np.uint8:
        known = bands[:, view.valid].astype(np.float64)
        low, high = np.percentile(known, (1, 99)) if known.size else (0.0, 1.0)
        bands = np.clip((bands - low) / max(high - low, 1e-9) * 255, 0, 255).astype(np.uint8)
    return np.where(view.valid[..., None], np.moveaxis(bands, 0, -1), 255).astype(np.uint8)


def class_rgb(
    view: View, classes: ClassTable | None, palette: dict[int, tuple[int, ...]] | None
) -> Rgb:
    """Classes in their colours, white where there is none; colour-coded rasters as they are."""
    if len(view.values) == 3:
        return np.where(view.valid[..., None], np.moveaxis(view.values, 0, -1), 255).astype(
            np.uint8
        )
    index = view.values[0].astype(np.int64)
    known = view.valid & (index >= 0) & (index < IGNORE)
    table = np.zeros((256, 3), np.uint8)
    numbered = ClassTable.numbered(IGNORE).colours  # for a raster that brings no colours
    for value in range(IGNORE):
        if classes is not None and value < len(classes):
            table[value] = classes.colours[value]
        else:
            table[value] = (palette or view.palette or {}).get(value, numbered[value])[:3]
    return np.where(known[..., None], table[np.where(known, index, 0)], 255).astype(np.uint8)


def _draw_heights(axes: Any, bar: Any, view: View) -> None:
    """Heights in colour under a relief lit from the north west, and a bar in metres."""
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
    axes.imshow(shaded, interpolation="antialiased", aspect="auto")
    steps = tints(np.linspace(1, 0, 256))[:, None, :3]
    bar.imshow(steps, extent=(0, 1, scale.vmin, scale.vmax), aspect="auto")
    bar.set_xticks([])
    bar.yaxis.tick_right()
    bar.tick_params(labelsize=9, length=2, pad=2, color="0.4", labelcolor="0.2")
    bar.set_title("m", fontsize=9, color="0.2", pad=5)
    for spine in bar.spines.values():
        spine.set_visible(False)


def _draw_legend(figure: Any, classes: ClassTable, views: list[View]) -> None:
    """Names of the classes that are to be seen, under the panels."""
    from matplotlib.patches import Patch

    seen: set[int] = set()
    for view in views:
        if len(view.values) == 1:
            seen.update(int(value) for value in np.unique(view.values[0][view.valid]))
    handles = [
        Patch(
            facecolor=_hex(classes.colours[index]),
            edgecolor="0.6",
            linewidth=0.4,
            label=classes.names[index].replace("$", r"\$"),  # no formulas in names
        )
        for index in sorted(seen)
        if index < len(classes)
    ]
    if handles:
        figure.legend(
            handles=handles, loc="lower center", ncols=min(len(handles), 8), frameon=False,
            fontsize=11, handlelength=1.1, handleheight=1.1, columnspacing=1.6, borderaxespad=0.2,
        )  # fmt: skip


def _classes(path: Path, view: View) -> ClassTable | None:
    if view.names is None:
        return None
    try:
        return ClassTable.from_json(json.loads(view.names))
    except (ValueError, MFNetError) as fault:
        raise SceneError(f"{path}: tag {CLASSES_TAG} is no class table: {fault}") from fault


def _hex(colour: Colour) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)


def _palette(raster: Any) -> dict[int, tuple[int, ...]] | None:
    try:
        found: dict[int, tuple[int, ...]] = raster.colormap(1)
    except ValueError:  # there is none
        return None
    return found
