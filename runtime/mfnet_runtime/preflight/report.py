"""What an examination found, for people: a table and findings a scene, at most 100 columns wide."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

import click

from mfnet_runtime.preflight.dsm_statistics import HeightLook
from mfnet_runtime.preflight.findings import Finding, Level
from mfnet_runtime.preflight.image_statistics import ImageLook
from mfnet_runtime.preflight.model import ModelFacts
from mfnet_runtime.preflight.raster_info import RasterFacts
from mfnet_runtime.preflight.scene import Checkup

WIDTH = 100  # columns
LABEL = 10  # columns of the names of rows
COLOURS: dict[Level, str] = {
    "ok": "green",
    "note": "cyan",
    "warning": "yellow",
    "refused": "red",
}


def model_lines(model: ModelFacts) -> Iterator[str]:
    """What the model says about itself."""
    contract = model.contract
    rule = {
        "scene_minmax": "heights by each scene's lowest and highest",
        "scene_percentile": f"heights by each scene's percentiles {contract.dsm.low:g} and "
        f"{contract.dsm.high:g}",
        "range": f"heights {contract.dsm.low:g} .. {contract.dsm.high:g} m",
    }[contract.dsm.name]
    text = (
        f"{model.file}: {contract.precision}, {len(contract.classes)} classes, window "
        f"{contract.window} px, bands {' '.join(contract.image.bands)} / "
        f"{contract.image.full_scale:g}, {rule}; {model.backend} on {model.device}"
    )
    yield from textwrap.wrap(text, WIDTH, subsequent_indent="  ")


def run_lines(findings: Sequence[Finding], quiet: bool) -> Iterator[str]:
    """About the run as a whole."""
    yield from _finding_lines(findings, {}, quiet)


def scene_lines(checkup: Checkup, quiet: bool) -> Iterator[str]:
    """About a scene; nothing where all is well and only that is asked."""
    if quiet and checkup.verdict in ("ok", "note"):
        return
    yield ""
    verdict = click.style(checkup.verdict, fg=COLOURS[checkup.verdict], bold=True)
    yield f"{click.style(checkup.scene.name, bold=True)}: {verdict}"
    if not quiet:
        yield from _table(checkup)
        yield from _work_lines(checkup)
    scene = checkup.scene
    names = {str(scene.image): scene.image.name, str(scene.dsm): scene.dsm.name}
    yield from _finding_lines(checkup.findings, names, quiet)


def summary_line(checkups: Sequence[Checkup], code: int) -> str:
    """The last line."""
    count = {level: sum(one.verdict == level for one in checkups) for level in COLOURS}
    words: dict[Level, str] = {"refused": "would be refused", "warning": "with warnings"}
    parts = [
        click.style(f"{count[level]} {text}", fg=COLOURS[level] if count[level] else None)
        for level, text in words.items()
    ]
    well = count["ok"] + count["note"]
    scenes = f"{len(checkups)} scene{'s' * (len(checkups) != 1)}"
    whole = "" if code in (0, 4) else "\nThe run as a whole would be refused."
    return f"\n{scenes}: {well} well, {', '.join(parts)}.{whole} Nothing was written."


def _table(checkup: Checkup) -> Iterator[str]:
    """Image and DSM side by side."""
    image, dsm = checkup.image, checkup.dsm
    columns = [
        _facts_column(image, checkup.pixels, "image"),
        _facts_column(dsm, checkup.heights, "DSM"),
    ]
    labels = list(dict.fromkeys(label for column in columns for label in column))
    width = (WIDTH - LABEL - 4) // 2
    for label in labels:
        cells = [textwrap.wrap(column.get(label, ""), width) for column in columns]
        for index in range(max(map(len, cells))):
            left, right = (cell[index] if index < len(cell) else "" for cell in cells)
            name = label if index == 0 else ""
            yield f"  {name:<{LABEL}}{left:<{width}}  {right}".rstrip()


def _facts_column(
    facts: RasterFacts | None, look: ImageLook | HeightLook | None, title: str
) -> dict[str, str]:
    """Texts by the names of their rows."""
    if facts is None:
        return {"": title, "file": "cannot be opened"}
    column = {
        "": title,
        "file": facts.file,
        "size": f"{facts.height} x {facts.width} px",
        "pixel": _pixel(facts),
        "CRS": facts.crs if facts.datum is None else f"{facts.crs}, datum {facts.datum}",
        "origin": _origin(facts),
        "numbers": _numbers(facts),
        "stored": _stored(facts),
    }
    if look is not None:
        low, high = look.common
        column["looked at"] = _percent(look.share)
        if look.valid:
            ends = (look.low, look.high)
            if isinstance(look, ImageLook):
                ends = (min(look.low), max(look.high))
            column["values"] = f"{ends[0]:.6g} .. {ends[1]:.6g}, 98% in {low:.6g} .. {high:.6g}"
        masked = ", ".join(f"{name} {_percent(share)}" for name, share in look.masked.items())
        column["no data"] = masked or "none"
    return column


def _pixel(facts: RasterFacts) -> str:
    across, down = (f"{size:.6g}" for size in facts.pixel_size)
    text = f"{across if across == down else f'{across} x {down}'} {facts.unit}"
    if facts.metres not in (None, 1.0):
        text += f" ({facts.pixel_size[0] * facts.metres:.4g} m)"
    return text


def _origin(facts: RasterFacts) -> str:
    if facts.placed != "transform":
        return facts.placed
    return "{:.10g} {:.10g}".format(*facts.origin)


def _numbers(facts: RasterFacts) -> str:
    bands = ", ".join(facts.bands[:5]) + ", ..." * (len(facts.bands) > 5)
    declared = list(dict.fromkeys(value for value in facts.nodata if value is not None))
    nodata = ", ".join(f"{value:g}" for value in declared)
    return f"{facts.dtype}: {bands}" + (f"; nodata {nodata}" if nodata else "")


def _stored(facts: RasterFacts) -> str:
    rows, columns = facts.block
    kind = f"tiles of {rows} x {columns} px" if facts.tiled else f"strips of {rows} rows"
    return f"{kind}, {facts.compression or 'not compressed'}"


def _work_lines(checkup: Checkup) -> Iterator[str]:
    """What a run would do."""
    estimate = checkup.estimate
    if estimate is None:
        return
    windows, blocks = estimate.windows, estimate.blocks
    text = f"{windows} window{'s' * (windows > 1)} in {blocks} block{'s' * (blocks > 1)}"
    if checkup.skipped:
        text += f", {checkup.skipped} or more of them without data and skipped"
    if checkup.wanted is not None:
        text += f"; {_percent(checkup.wanted)} of the pixels get a class"
    text += f"; at most {_mib(estimate.memory)} for pixels, {_mib(estimate.disk)} of disk"
    if checkup.replaced:
        text += f"; replaces {', '.join(checkup.replaced)}"
    yield from _labelled("a run", text)


def _finding_lines(
    findings: Sequence[Finding], names: dict[str, str], quiet: bool
) -> Iterator[str]:
    """The worst first; paths, which the table has, without their folders."""
    order: tuple[Level, ...] = ("refused", "warning") if quiet else ("refused", "warning", "note")
    for level in order:
        for finding in findings:
            if finding.level == level:
                text = finding.text
                for path, name in names.items():
                    text = text.replace(path, name)
                yield from _labelled(level, text, COLOURS[level])
    if quiet:
        return
    for about in dict.fromkeys(finding.about for finding in findings):
        fine = [one.text for one in findings if one.level == "ok" and one.about == about]
        if fine:
            yield from _labelled("ok", f"{about}: {'; '.join(fine)}", COLOURS["ok"])


def _labelled(label: str, text: str, colour: str | None = None) -> Iterator[str]:
    lines = textwrap.wrap(text, WIDTH - LABEL - 2, break_long_words=False, break_on_hyphens=False)
    for index, line in enumerate(lines):
        name = click.style(f"{label:<{LABEL}}", fg=colour) if index == 0 else " " * LABEL
        yield f"  {name}{line}"


def _percent(share: float) -> str:
    """Never 100% where something is missing, nor 0% where something is there."""
    if share in (0.0, 1.0):
        return f"{share:.0%}"
    return f"{min(max(100 * share, 0.01), 99.99):.2f}%"


def _mib(count: int) -> str:
    return f"{count / (1 << 20):.0f} MiB"
