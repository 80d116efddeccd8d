"""A sweep as a table, as files and as a plot of seconds against mIoU. Measures nothing."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from mfnet_bench.accuracy.sweep import Setting, Sweep, SweepRow
from mfnet_bench.table import figure, markdown_table
from mfnet_runtime.errors import ResourceError
from mfnet_runtime.files import replace_text

COLOURS = {"uniform": "#c8553d", "hann": "#1f6f8b", "centre": "#6b8e23"}
SIZE, DPI = (8.0, 4.2), 150  # inches, dots an inch: 1200 px wide
UNITS = {"s": (1, (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20)),
         "min": (60, (0.5, 1, 2, 5, 10, 20)), "h": (3600, (0.5, 1, 2, 5, 10, 20, 50))}  # fmt: skip
TICKS = {unit * n: f"{n} {name}" for name, (unit, ns) in UNITS.items() for n in ns}  # by seconds


def sweep_table(sweep: Sweep) -> str:
    """A Markdown table, a row a stride and blending, and what it is compared with."""
    header = [
        "stride", "blend", "windows", "a pixel", "s", "Mpx/s", "mIoU", "mF1", "OA", "points",
        "same class", "speed-up",
    ]  # fmt: skip
    body = [
        [
            str(row.stride),
            row.blend,
            str(row.windows),
            figure(row.windows_a_pixel, 1),
            figure(row.seconds, 2),
            figure(row.mpx_per_s, 3),
            figure(row.mean_iou),
            figure(row.mean_f1),
            figure(row.oa),
            f"{row.iou_change:+.2f}",
            f"{row.agreement:.2%}",
            f"{row.speed_up:.1f}x",
        ]
        for row in sweep.rows
    ]
    protocol = " (the published protocol)" if sweep.reference == sweep.published else ""
    return (
        f"{markdown_table(header, body)}\n\n"
        f"{sweep.model} on {sweep.device}. Points of mIoU, same class and speed-up are against "
        f"{_words(sweep.reference)}{protocol}. The default of mfnet-run is {_words(sweep.default)}."
    )


def write_sweep(folder: Path, sweep: Sweep) -> None:
    """`sweep.csv`, `sweep.json` and `sweep.png`.

    Raises:
        ResourceError: the plot cannot be written.
        OSError: another file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    text = io.StringIO()
    table = csv.DictWriter(text, [field.name for field in fields(SweepRow)], lineterminator="\n")
    table.writeheader()
    table.writerows(asdict(row) for row in sweep.rows)
    replace_text(folder / "sweep.csv", text.getvalue())
    replace_text(folder / "sweep.json", json.dumps(sweep.to_dict(), indent=1) + "\n")
    draw_sweep(sweep, folder / "sweep.png")


def draw_sweep(sweep: Sweep, out: Path) -> None:
    """Seconds (log) against mIoU, a line a blending, points labelled with the stride.

    Raises:
        ResourceError: `out` cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE, dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_xscale("log")
    axes.margins(x=0.06, y=0.1)
    for blend in dict.fromkeys(row.blend for row in sweep.rows):
        rows = [row for row in sweep.rows if row.blend == blend]
        seconds, scores = [row.seconds for row in rows], [row.mean_iou for row in rows]
        colour = COLOURS[blend]
        axes.plot(seconds, scores, "o-", color=colour, label=blend, linewidth=1.6, markersize=5)
        for row in rows:
            # Curves rise to the right: free space is above to the left and below to the right.
            above = row.mean_iou == max(r.mean_iou for r in sweep.rows if r.stride == row.stride)
            side, place, base = (-1, "right", "bottom") if above else (1, "left", "top")
            axes.annotate(
                str(row.stride), (row.seconds, row.mean_iou), (5 * side, -5 * side),
                textcoords="offset points", ha=place, va=base, fontsize=10, color=colour,
            )  # fmt: skip
    _mark(axes, sweep, sweep.published, "s", "published protocol")
    _mark(axes, sweep, sweep.default, "o", "default of mfnet-run")
    _dress(axes, sweep)
    try:
        figure.savefig(out, facecolor="white")
    except (OSError, ValueError) as fault:
        raise ResourceError(f"{out}: cannot write the plot: {fault}") from fault


def _mark(axes: Any, sweep: Sweep, setting: Setting, shape: str, name: str) -> None:
    """A frame around a point that was measured, named in the legend."""
    for row in sweep.rows:
        if (row.stride, row.blend) == setting:
            axes.plot(
                row.seconds, row.mean_iou, shape, markersize=12, color=COLOURS[row.blend],
                markerfacecolor="none", markeredgewidth=1.5, label=name,
            )  # fmt: skip


def _dress(axes: Any, sweep: Sweep) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    axes.xaxis.set_major_locator(FixedLocator(list(TICKS)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: TICKS.get(value, "")))
    axes.xaxis.set_minor_locator(NullLocator())
    scenes = sweep.scenes[0] if len(sweep.scenes) == 1 else f"{len(sweep.scenes)} scenes"
    axes.set_title(
        f"{sweep.model} on {scenes}, {sweep.pixels / 1e6:.3g} million pixels; "
        f"numbers are strides of a window of {sweep.window} px",
        fontsize=10, color="0.3", loc="left", parse_math=False,
    )  # fmt: skip
    axes.set_xlabel("time", fontsize=11)
    axes.set_ylabel(f"mIoU over {len(sweep.counted)} classes", fontsize=11)
    axes.tick_params(labelsize=10)
    axes.grid(color="0.9")
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.legend(frameon=False, fontsize=10, loc="lower right")


def _words(setting: Setting) -> str:
    return f"stride {setting[0]}, {setting[1]}"
