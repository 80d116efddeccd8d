"""Scores as tables, as files, and as a plot of time against mIoU."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mfnet_bench.accuracy.score import AccuracyRow
from mfnet_bench.machine import machine_facts
from mfnet_bench.table import figure, markdown_table
from mfnet_runtime.errors import ResourceError
from mfnet_runtime.files import replace_text
from mfnet_runtime.labels import ClassTable

COLOURS = {"uniform": "#c8553d", "hann": "#1f6f8b", "centre": "#6b8e23"}
STYLES = ("o-", "s--", "^:", "D-.")  # of the models
SIZE, DPI = (8.0, 4.2), 150  # inches, dots per inch
SECONDS = {
    f"{number} {unit}": number * seconds
    for unit, seconds in (("s", 1), ("min", 60), ("h", 3600))
    for number in (0.01, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20)
    if unit == "s" or number >= 0.5
}


def accuracy_table(classes: ClassTable, rows: Sequence[AccuracyRow]) -> str:
    """Return a table of the rows; for one stride and blending also of the classes."""
    first = rows[0]
    table = markdown_table(
        [
            "model", "backend", "stride", "blend", "mIoU", "mF1", "OA", "kappa", "agreement",
            "windows/s", "outside", "s", "speed-up",
        ],
        [
            [
                row.model,
                row.backend,
                str(row.stride),
                row.blend,
                figure(row.scores.mean_iou),
                figure(row.scores.mean_f1),
                figure(row.scores.oa),
                figure(row.scores.kappa),
                f"{row.agreement:.4%}",
                figure(row.windows_per_s, 2),
                f"{row.outside_backend:.1%}",
                figure(row.seconds, 2),
                f"{first.seconds / row.seconds:.1f}x",
            ]
            for row in rows
        ],
    )  # fmt: skip
    notes = "Agreement and speed-up are relative to the first row; outside: time not spent in the "
    notes += "backend."
    if len({(row.stride, row.blend) for row in rows}) > 1:
        return f"{table}\n\n{notes}"
    backends = [row.backend for row in rows]
    titles = backends if len(set(backends)) == len(rows) else [row.model for row in rows]
    per_class = markdown_table(
        ["class", *(f"{title} {kind}" for title in titles for kind in ("IoU", "F1", "recall"))],
        [
            [
                name + ("" if index in first.scores.counted else " (not in the means)"),
                *(
                    figure(values[index])
                    for row in rows
                    for values in (row.scores.iou, row.scores.f1, row.scores.recall)
                ),
            ]
            for index, name in enumerate(classes.names)
        ],
    )
    return f"{table}\n\n{notes}\n\n{per_class}"


def write_accuracy(folder: Path, classes: ClassTable, rows: Sequence[AccuracyRow]) -> None:
    """Write `miou.json`, and `miou.csv` with a line per row and class; several strides are drawn.

    Raises:
        ResourceError: The plot `miou.png` cannot be written.
        OSError: Another file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    kinds = ("iou", "f1", "precision", "recall")
    settings = ("model", "backend", "stride", "blend", "seconds")
    table.writerow([*settings, "class", *kinds])
    for row in rows:
        facts, scores = [getattr(row, name) for name in settings], row.scores.to_dict()
        for index, name in enumerate(classes.names):
            table.writerow([*facts, name, *(scores[kind][index] for kind in kinds)])
        table.writerow([*facts, "mean", scores["mean_iou"], scores["mean_f1"], None, None])
    found = [{**row.to_dict(classes), "machine": machine_facts()} for row in rows]
    replace_text(folder / "miou.json", json.dumps(found, indent=1) + "\n")
    replace_text(folder / "miou.csv", text.getvalue())
    if len({row.stride for row in rows}) > 1:
        draw_accuracy(rows, folder / "miou.png")


def draw_accuracy(rows: Sequence[AccuracyRow], out: Path) -> None:
    """Draw seconds against mIoU: a line per model and blending, points labelled by their stride.

    Raises:
        ResourceError: `out` cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE, dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    models = list(dict.fromkeys(row.model for row in rows))
    for model, blend in dict.fromkeys((row.model, row.blend) for row in rows):
        line = [row for row in rows if (row.model, row.blend) == (model, blend)]
        axes.plot(
            [row.seconds for row in line],
            [row.scores.mean_iou for row in line],
            STYLES[models.index(model) % len(STYLES)],
            color=COLOURS[blend],
            label=blend if len(models) == 1 else f"{model}, {blend}",
        )
        for row in line:
            axes.annotate(
                str(row.stride), (row.seconds, row.scores.mean_iou), (0, 5),
                textcoords="offset points", ha="center", color=COLOURS[blend],
            )  # fmt: skip
    _dress(axes, f"{', '.join(models)}; numbers are strides in pixels", rows)
    try:
        figure.savefig(out, facecolor="white")
    except (OSError, ValueError) as fault:
        raise ResourceError(f"{out}: cannot write the plot: {fault}") from fault


def _dress(axes: Any, title: str, rows: Sequence[AccuracyRow]) -> None:
    from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

    axes.set_xscale("log")
    axes.margins(x=0.06, y=0.1)
    axes.xaxis.set_major_locator(FixedLocator(list(SECONDS.values())))
    axes.xaxis.set_major_formatter(FixedFormatter(list(SECONDS)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_title(title, fontsize=10, color="0.3", loc="left", parse_math=False)
    axes.set_xlabel("time")
    axes.set_ylabel(f"mIoU over {len(rows[0].scores.counted)} classes")
    axes.grid(color="0.9")
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.legend(frameon=False, loc="lower right")
