"""Milliseconds per window against the share of pixels whose class changes, a panel per network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mfnet_bench.latency.run import LatencyRow
from mfnet_runtime.errors import ResourceError

PANEL, HEIGHT, DPI = 6.2, 4.5, 150  # inches, dots per inch
FLOOR = 1e-6  # of the share axis, which means no change
TICKS = {FLOOR: "none", 1e-4: "0.01%", 1e-2: "1%"}
COLOURS = {"onnxruntime": "#1f6f8b", "openvino": "#c8553d", "tensorrt": "#5a8f29"}
MARKERS = {"fp32": "o", "fp16": "P", "bf16": "s", "int8": "^", "int8+bf16": "D"}
TITLES = {
    "torch published": "PyTorch, as published",
    "torch mfnet": "PyTorch, mfnet",
    "torch autocast": "PyTorch, autocast",
    "torch compiled": "torch.compile",
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
    "tensorrt": "TensorRT",
}
GAP = 15  # points between two labels


def draw_latency(rows: Sequence[LatencyRow], out: Path) -> None:
    """Draw each engine's batches, the fastest of them filled and labelled; PyTorch as lines.

    Raises:
        ResourceError: `out` cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    ran = [row for row in rows if row.median_ms is not None]
    networks = list(dict.fromkeys(row.network for row in ran))
    count = max(1, len(networks))
    figure = Figure(figsize=(PANEL * count, HEIGHT), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, count, sharex=True, squeeze=False)[0]
    panels[0].set_ylabel("time per window", fontsize=12)
    right = max((_changed(row) for row in ran), default=FLOOR)
    labels = {}
    for axes, network in zip(panels, networks, strict=False):
        labels[axes] = _draw_panel(axes, [row for row in ran if row.network == network])
        axes.set_title(network, fontsize=13)
        _dress(axes, right)
    figure.draw_without_rendering()  # from here on places are known
    for axes, wanted in labels.items():
        _write_labels(axes, wanted)
    try:
        figure.savefig(out, facecolor="white")
    except (OSError, ValueError) as fault:
        raise ResourceError(f"{out}: cannot write the plot: {fault}") from fault


def _draw_panel(axes: Any, rows: Sequence[LatencyRow]) -> list[tuple[float, str, str]]:
    """Draw lines and markers; return the labels as milliseconds, text and colour."""
    engines: dict[tuple[str, str, str], list[LatencyRow]] = {}
    for row in rows:
        engines.setdefault((row.model, row.backend, row.precision), []).append(row)
    labels = []
    for (_, backend, precision), cells in engines.items():
        best = min(cells, key=_ms)
        title, colour = TITLES.get(backend, backend), COLOURS.get(backend, "0.35")
        if backend.startswith("torch"):
            axes.axhline(_ms(best), color="0.55", linewidth=1.0, linestyle="--", zorder=1)
        else:
            marker = MARKERS.get(precision, "v")
            xs, ys = [_changed(row) for row in cells], [_ms(row) for row in cells]
            axes.plot(xs, ys, "-", color=colour, linewidth=0.8, alpha=0.6, zorder=2)
            axes.plot(xs, ys, marker, color=colour, markersize=5, markerfacecolor="none", zorder=3)
            axes.plot(_changed(best), _ms(best), marker, color=colour, markersize=8, zorder=4)
            title += f" {precision}" + (f", batch {best.batch}" if len(cells) > 1 else "")
        labels.append((_ms(best), f"{title}  {_ms_text(_ms(best))}", colour))
    times = [_ms(row) for row in rows]
    axes.set_ylim(min(times) / 1.35, max(times) * 1.35)
    return labels


def _write_labels(axes: Any, labels: Sequence[tuple[float, str, str]]) -> None:
    """Write labels right of the panel, each at its height or else just above the one below."""
    last = float("-inf")
    for ms, text, colour in sorted(labels):
        place = axes.transData.transform((FLOOR, ms))[1] * 72 / axes.figure.dpi  # in points
        last = max(place, last + GAP)
        axes.annotate(
            text, (1.0, ms), (5, last - place), xycoords=("axes fraction", "data"),
            textcoords="offset points", va="center", fontsize=11, color=colour,
        )  # fmt: skip


def _dress(axes: Any, right: float) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(FLOOR / 1.6, max(right * 3, 3e-2))
    axes.xaxis.set_major_locator(FixedLocator(list(TICKS)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: TICKS.get(value, "")))
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _ms_text(value)))
    axes.set_xlabel("pixels that change class", fontsize=12)
    axes.tick_params(labelsize=11)
    axes.grid(color="0.92")
    axes.set_axisbelow(True)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_locator(NullLocator())
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _ms(row: LatencyRow) -> float:
    assert row.median_ms is not None  # only rows that ran are drawn
    return row.median_ms


def _ms_text(ms: float) -> str:
    return f"{ms / 1000:.3g} s" if ms >= 1000 else f"{ms:.3g} ms"


def _changed(row: LatencyRow) -> float:
    return max(FLOOR, 1 - (1.0 if row.agreement is None else row.agreement))
