"""Facts of a file as aligned lines for people. Knows no files."""

from __future__ import annotations

from typing import Any

import click

from mfnet_export.files import size_text

# Names with a number each, on one line.
_COUNTS = ("activations", "operators", "opset", "peaks")
_RULES = {
    "scene_minmax": "scene_minmax: lowest to highest height of each scene",
    "scene_percentile": "scene_percentile: {low:g} to {high:g} % of each scene's heights",
    "range": "range: {low:g} to {high:g} m in every scene",
}


def lines_from(facts: dict[str, Any]) -> list[str]:
    """The report: one block a section, keys aligned."""
    special = ("file", "contract", "note")
    file, contract, note = (facts.get(name) for name in special)
    blocks = {"file": _file_rows(file)} if file else {}
    blocks |= {name: _flat(section) for name, section in facts.items() if name not in special}
    if contract:
        blocks["contract"] = _contract_rows(contract)
        blocks["provenance"] = _flat(contract["provenance"])
        blocks["classes"] = _class_rows(contract["classes"])
    lines: list[str] = []
    for name, rows in blocks.items():
        if rows:
            width = max(len(key) for key, _ in rows)
            lines += [name, *(f"  {key:<{width}}  {text}" for key, text in rows), ""]
    return [*lines, f"note: {note}"] if note else lines[:-1]


def _file_rows(file: dict[str, Any]) -> list[tuple[str, str]]:
    size = f"{size_text(file['bytes'])} ({_text(file['bytes'])} bytes)"
    return [
        ("name", file["name"]),
        ("kind", file["kind"]),
        ("size", size),
        ("sha256", file["sha256"]),
    ]


def _contract_rows(contract: dict[str, Any]) -> list[tuple[str, str]]:
    image, dsm = contract["image"], contract["dsm"]
    rule = _RULES.get(dsm["rule"], dsm["rule"]).format(**dsm)
    return [
        ("window", f"{contract['window']} px"),
        ("image", f"{', '.join(image['bands'])}; value / {image['full_scale']:g}"),
        ("DSM", rule),
        ("precision", contract["precision"]),
    ]


def _class_rows(classes: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Index, a swatch where the terminal has colours, the colour in hexadecimal, the name."""
    rows = []
    for index, entry in enumerate(classes):
        red, green, blue = entry["colour"]
        swatch = click.style("  ", bg=(red, green, blue))
        rows.append((f"{index:>3}", f"{swatch} #{red:02x}{green:02x}{blue:02x}  {entry['name']}"))
    return rows


def _flat(section: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Rows of a section; facts inside facts get dotted keys."""
    rows: list[tuple[str, str]] = []
    for key, value in section.items():
        if key in _COUNTS and isinstance(value, dict):
            text = ", ".join(f"{name} {_text(count)}" for name, count in value.items())
            rows.append((f"{prefix}{key}", text))
        elif isinstance(value, dict):
            rows += _flat(value, f"{prefix}{key}.")
        else:
            rows.append((f"{prefix}{key}".replace("_", " "), _text(value)))
    return rows


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(_text(part) for part in value) or "none"
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    if isinstance(value, float):
        return f"{value:.6g}"
    return f"{value:,}".replace(",", " ") if isinstance(value, int) else str(value)
