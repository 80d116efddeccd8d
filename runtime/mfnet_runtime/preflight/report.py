"""The text that `--check` prints: for each scene a table and its findings, at most 100 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

import click

from mfnet_runtime.checks.findings import Finding, Level
from mfnet_runtime.checks.statistics import Statistics
from mfnet_runtime.preflight.model import ModelInfo
from mfnet_runtime.preflight.rasters import RasterInfo
from mfnet_runtime.preflight.results import SceneCheck

WIDTH = 100  # columns
LABEL = 10  # columns for the names of rows
COLOURS: dict[Level, str] = {"ok": "green", "note": "cyan", "warning": "yellow", "refused": "red"}


def model_lines(model: ModelInfo) -> Iterator[str]:
    """Describe the model."""
    contract = model.contract
    low, high = contract.dsm.low, contract.dsm.high
    heights = {
        "scene_minmax": "heights scaled by the lowest and highest of each scene",
        "scene_percentile": f"heights scaled by percentiles {low:g} and {high:g} of each scene",
        "range": f"heights of {low:g} .. {high:g} m",
    }[contract.dsm.name]
    pixels = f" of {contract.pixel_size:.3g} m" if contract.pixel_size else ""
    text = (
        f"{model.file}: {contract.precision}, {len(contract.classes)} classes, window "
        f"{contract.window} px{pixels}, bands {' '.join(contract.image.bands)} / "
        f"{contract.image.full_scale:g}, {heights}; {model.backend} on {model.device}"
    )
    yield from textwrap.wrap(text, WIDTH, subsequent_indent="  ")


def scene_lines(check: SceneCheck, quiet: bool) -> Iterator[str]:
    """Describe a scene; nothing if `quiet` and it has neither warnings nor refusals."""
    if quiet and check.verdict in ("ok", "note"):
        return
    yield ""
    verdict = click.style(check.verdict, fg=COLOURS[check.verdict], bold=True)
    yield f"{click.style(check.scene.name, bold=True)}: {verdict}"
    if not quiet:
        yield from _table(check)
        yield from _cost(check)
    scene = check.scene
    names = {str(path): path.name for path in (scene.image, scene.dsm)}
    yield from finding_lines(check.findings, quiet, names)


def finding_lines(
    findings: Sequence[Finding], quiet: bool, names: dict[str, str] | None = None
) -> Iterator[str]:
    """List findings, the most serious first.

    Args:
        findings: In any order.
        quiet: Leave out notes and what is well.
        names: Paths and the shorter names to print instead.
    """
    levels: tuple[Level, ...] = ("refused", "warning") if quiet else ("refused", "warning", "note")
    for level in levels:
        for text in [finding.text for finding in findings if finding.level == level]:
            for path, name in (names or {}).items():
                text = text.replace(path, name)
            yield from _labelled(level, text, COLOURS[level])
    well: dict[str, list[str]] = {}
    for finding in findings:
        if finding.level == "ok" and not quiet:
            well.setdefault(finding.about, []).append(finding.text)
    for about, texts in well.items():
        yield from _labelled("ok", f"{about}: {'; '.join(texts)}", COLOURS["ok"])


def summary_line(checks: Sequence[SceneCheck], code: int) -> str:
    """Count scenes by verdict."""
    count = {level: sum(one.verdict == level for one in checks) for level in COLOURS}
    words: dict[Level, str] = {"warning": "with warnings", "refused": "would be refused"}
    parts = [
        click.style(f"{count[level]} {text}", fg=COLOURS[level] if count[level] else None)
        for level, text in words.items()
    ]
    well = count["ok"] + count["note"]
    scenes = f"{len(checks)} scene{'s' * (len(checks) != 1)}"
    whole = "" if code in (0, 4) else "\nThe run as a whole would be refused."
    return f"\n{scenes}: {well} ok, {', '.join(parts)}.{whole} Nothing was written."


def _table(check: SceneCheck) -> Iterator[str]:
    """Show image and DSM side by side."""
    columns = [
        _column("image", check.image, check.image_values),
        _column("DSM", check.dsm, check.heights),
    ]
    width = (WIDTH - LABEL - 4) // 2
    for label in dict.fromkeys(label for column in columns for label in column):
        cells = [textwrap.wrap(column.get(label, ""), width) for column in columns]
        for index in range(max(map(len, cells))):
            left, right = (cell[index] if index < len(cell) else "" for cell in cells)
            name = label if index == 0 else ""
            yield f"  {name:<{LABEL}}{left:<{width}}  {right}".rstrip()


def _column(title: str, raster: RasterInfo | None, values: Statistics | None) -> dict[str, str]:
    """Return the texts of a column by the names of their rows."""
    if raster is None:
        return {"": title, "file": "cannot be opened"}
    pixel = f"{_size(raster.pixel_size)} {raster.unit}"
    if raster.ground and raster.ground != raster.pixel_size:
        pixel += f" ({_size(raster.ground, 4)} m)"
    bands = ", ".join(raster.bands[:5]) + ", ..." * (len(raster.bands) > 5)
    declared = dict.fromkeys(f"{value:g}" for value in raster.nodata if value is not None)
    rows, columns = raster.block
    kind = f"tiles of {columns} x {rows} px" if raster.tiled else f"strips of {rows} rows"
    placed = "{:.10g} {:.10g}".format(*raster.origin)
    column = {
        "": title,
        "file": raster.file,
        "size": f"{raster.width} x {raster.height} px",
        "pixel": pixel,
        "CRS": raster.crs if raster.datum is None else f"{raster.crs}, datum {raster.datum}",
        "origin": placed if raster.placed == "transform" else raster.placed,
        "numbers": f"{raster.dtype}: {bands}" + "; nodata " * bool(declared) + ", ".join(declared),
        "stored": f"{kind}, {raster.compression or 'not compressed'}",
    }
    if values is not None:
        low, high = values.common
        column["sampled"] = _percent(values.share)
        if values.valid:
            ends = f"{min(values.low):.6g} .. {max(values.high):.6g}"
            column["values"] = f"{ends}, 98% in {low:.6g} .. {high:.6g}"
        masked = ", ".join(f"{name} {_percent(share)}" for name, share in values.masked.items())
        column["no data"] = masked or "none"
    return column


def _cost(check: SceneCheck) -> Iterator[str]:
    """Say what a run would do."""
    estimate = check.estimate
    if estimate is None:
        return
    windows, blocks = estimate.windows, estimate.blocks
    text = f"{windows} window{'s' * (windows > 1)} in {blocks} block{'s' * (blocks > 1)}"
    if check.skipped:
        text += f", {check.skipped} of them without data and skipped"
    if check.classified is not None:
        text += f"; {_percent(check.classified)} of the pixels get a class"
    text += (
        f"; at most {estimate.memory >> 20:,} MiB for pixels, {estimate.disk >> 20:,} MiB of disk"
    )
    if check.replaced:
        text += f"; replaces {', '.join(check.replaced)}"
    yield from _labelled("a run", text)


def _labelled(label: str, text: str, colour: str | None = None) -> Iterator[str]:
    lines = textwrap.wrap(text, WIDTH - LABEL - 2, break_long_words=False, break_on_hyphens=False)
    for index, line in enumerate(lines):
        name = click.style(f"{label:<{LABEL}}", fg=colour) if index == 0 else " " * LABEL
        yield f"  {name}{line}"


def _size(pixel: tuple[float, float], digits: int = 6) -> str:
    """Format width and height, or one of them if they look equal."""
    return " x ".join(dict.fromkeys(f"{side:.{digits}g}" for side in pixel))


def _percent(share: float) -> str:
    """Format a share; 0% and 100% only if they are exact."""
    if share in (0.0, 1.0):
        return f"{share:.0%}"
    return f"{min(max(100 * share, 0.01), 99.99):.2f}%"
