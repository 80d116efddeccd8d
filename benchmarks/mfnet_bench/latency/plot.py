"""Milliseconds a window against the share of pixels whose class changes, a panel a network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mfnet_bench.latency.row import LatencyRow
from mfnet_runtime.errors import ResourceError

PANEL, HEIGHT, DPI = 5.6, 5.0, 150  # inches, dots an inch
FLOOR = 1e-6  # of the share axis: below it a change is none
TICKS = {
    FLOOR: "none", 1e-5: "0.001%", 1e-4: "0.01%", 1e-3: "0.1%", 1e-2: "1%", 1e-1: "10%",
}  # fmt: skip
COLOURS = {"onnxruntime": "#1f6f8b", "openvino": "#c8553d"}
MARKERS = {"fp32": "o", "bf16": "s", "int8": "^", "int8+bf16": "D"}
TITLES = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
LINES = {
    "torch published": "PyTorch, as published",
    "torch mfnet": "PyTorch, mfnet",
    "torch compiled": "torch.compile",
}
GAP = 15  # points between the baselines of two labels


def draw_latency(rows: Sequence[LatencyRow], out: Path) -> None:
    """Each engine's batches joined by a line, its fastest labelled; PyTorch as level lines.

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
    for axes, network in zip(panels, networks, strict=False):
        _draw_panel(axes, [row for row in ran if row.network == network])
        axes.set_title(network, fontsize=13)
        _scale_times(axes, [_ms(row) for row in ran if row.network == network])
    _dress(panels, ran)
    figure.draw_without_rendering()  # places are known from here on
    for axes, network in zip(panels, networks, strict=False):
        _label(axes, [row for row in ran if row.network == network])
    try:
        figure.savefig(out, facecolor="white")
    except (OSError, ValueError) as fault:
        raise ResourceError(f"{out}: cannot write the plot: {fault}") from fault


def _draw_panel(axes: Any, rows: Sequence[LatencyRow]) -> None:
    for row in rows:
        if row.backend in LINES:
            axes.axhline(row.median_ms, color="0.55", linewidth=1.0, linestyle="--", zorder=1)
    for cells in _engines(rows):
        colour, marker = COLOURS.get(cells[0].backend, "0.3"), MARKERS.get(cells[0].precision, "v")
        best = min(cells, key=_ms)
        xs, ys = [_changed(row) for row in cells], [_ms(row) for row in cells]
        axes.plot(xs, ys, marker, color=colour, markersize=5, markerfacecolor="none", zorder=3)
        axes.plot(xs, ys, "-", color=colour, linewidth=0.8, alpha=0.6, zorder=2)
        axes.plot(_changed(best), _ms(best), marker, color=colour, markersize=8, zorder=4)


def _label(axes: Any, rows: Sequence[LatencyRow]) -> None:
    """Names beside the markers and above the lines, pushed apart until none covers another."""
    scale = 72 / axes.figure.dpi  # points a display unit
    wanted: list[tuple[float, float, float, str, str, bool]] = []
    for row in rows:
        if row.backend in LINES:
            name = f"{LINES[row.backend]}  {_ms_text(_ms(row))}"
            wanted.append((*_place(axes, 1.0, _ms(row), scale), _ms(row), name, "0.35", True))
    for cells in _engines(rows):
        best = min(cells, key=_ms)
        batch = f", batch {best.batch}" if len(cells) > 1 else ""
        name = f"{TITLES.get(best.backend, best.backend)} {best.precision}{batch}"
        name = f"{name}  {_ms_text(_ms(best))}"
        place = _place(axes, _changed(best), _ms(best), scale)
        wanted.append((*place, _ms(best), name, COLOURS.get(best.backend, "0.3"), False))
    _write_lines(axes, [label for label in wanted if label[-1]])
    _write_points(axes, [label for label in wanted if not label[-1]])


def _write_lines(axes: Any, labels: Sequence[tuple[float, float, float, str, str, bool]]) -> None:
    """At the right edge above their lines; from top to bottom, each a gap below the one above."""
    last = float("inf")
    for _, y, ms, name, colour, _ in sorted(labels, key=lambda label: -label[1]):
        last = min(y, last - GAP)
        axes.annotate(
            name, (1.0, ms), (-4, last - y + 2), xycoords=("axes fraction", "data"),
            textcoords="offset points", ha="right", va="bottom",
            fontsize=11, color=colour, zorder=5,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 0},
        )  # fmt: skip


def _write_points(axes: Any, labels: Sequence[tuple[float, float, float, str, str, bool]]) -> None:
    """Right of their markers; from bottom to top, each at least a gap above the one below."""
    middle = sum(axes.transAxes.transform((0.4, 0))) * 72 / axes.figure.dpi
    last = float("-inf")
    for x, y, ms, name, colour, _ in sorted(labels, key=lambda label: label[1]):
        at = max(y, last + GAP)
        last = at
        right = x < middle  # room for the name on this side
        share = axes.transData.inverted().transform((x * axes.figure.dpi / 72, 0))[0]
        axes.annotate(
            name, (share, ms), (9 if right else -9, at - y), textcoords="offset points",
            ha="left" if right else "right", va="center", fontsize=11, color=colour, zorder=5,
        )  # fmt: skip


def _place(axes: Any, share: float, ms: float, scale: float) -> tuple[float, float]:
    x, y = axes.transData.transform((share, ms)) * scale
    return float(x), float(y)


def _scale_times(axes: Any, times: Sequence[float]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axes.set_yscale("log")
    axes.set_ylim(min(times) / 1.35, max(times) * 1.35)
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _ms_text(value)))
    axes.yaxis.set_minor_locator(NullLocator())


def _dress(panels: Sequence[Any], rows: Sequence[LatencyRow]) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    right = max((_changed(row) for row in rows), default=FLOOR)
    panels[0].set_ylabel("time a window", fontsize=12)
    for panel in panels:
        panel.set_xscale("log")
        panel.set_xlim(FLOOR / 1.6, max(right * 3, 3e-2))
        panel.xaxis.set_major_locator(FixedLocator(list(TICKS)))
        panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: TICKS.get(value, "")))
        panel.xaxis.set_minor_locator(NullLocator())
        panel.set_xlabel("pixels of another class than PyTorch's", fontsize=12)
        panel.tick_params(labelsize=11)
        panel.grid(color="0.92")
        panel.set_axisbelow(True)
        for side in ("top", "right"):
            panel.spines[side].set_visible(False)


def _engines(rows: Sequence[LatencyRow]) -> list[list[LatencyRow]]:
    """The batches of each engine."""
    found: dict[tuple[str, str, str], list[LatencyRow]] = {}
    for row in rows:
        if row.backend not in LINES:
            found.setdefault((row.model, row.backend, row.precision), []).append(row)
    return list(found.values())


def _ms(row: LatencyRow) -> float:
    assert row.median_ms is not None  # only rows that ran are drawn
    return row.median_ms


def _ms_text(ms: float) -> str:
    return f"{ms / 1000:.3g} s" if ms >= 1000 else f"{ms:.3g} ms"


def _changed(row: LatencyRow) -> float:
    return max(FLOOR, 1 - (1.0 if row.agreement is None else row.agreement))
