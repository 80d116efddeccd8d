"""A latency run as a table, as JSON, and as lines of a CSV that only grows. Measures nothing."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

from mfnet_bench.latency.machine import PACKAGES
from mfnet_bench.latency.plot import draw_latency
from mfnet_bench.latency.row import LatencyRow
from mfnet_bench.latency.run import LatencyRun
from mfnet_bench.table import figure, markdown_table
from mfnet_runtime.errors import UsageError
from mfnet_runtime.files import replace_text

CSV = "latency.csv"
FACTS = ("started", "cpu", "cores", "flags", "system", "python", *PACKAGES)
COLUMNS = (*FACTS, *(field.name for field in fields(LatencyRow)))

Record = tuple[dict[str, str], LatencyRow]  # facts of the run, and one of its rows


def latency_table(rows: Sequence[LatencyRow]) -> str:
    """A Markdown table of what ran, then a line for each cell that did not."""
    header = [
        "model", "backend", "precision", "batch", "ms", "p95", "windows/s", "Mpx/s", "x published",
        "x mfnet", "x compiled", "same class", "logits off", "GFLOP", "GFLOP/s", "of ceiling",
        "peak MB", "file MB", "load s",
    ]  # fmt: skip
    body = [
        [
            row.model,
            row.backend,
            row.precision,
            str(row.batch),
            figure(row.median_ms, 1),
            figure(row.p95_ms, 1),
            figure(row.windows_per_s, 2),
            figure(row.mpx_per_s, 3),
            figure(row.ratio_published, 2),
            figure(row.ratio_mfnet, 2),
            figure(row.ratio_compiled, 2),
            share(row.agreement),
            "-" if row.logit_difference is None else f"{row.logit_difference:.0e}",
            figure(row.gflop, 1),
            figure(row.gflop_per_s, 0),
            "-" if row.ceiling_fraction is None else f"{row.ceiling_fraction:.0%}",
            figure(row.peak_rss_mb, 0),
            figure(row.file_mb, 0),
            figure(row.load_s, 1),
        ]
        for row in rows
        if row.refused is None
    ]
    ceilings = dict.fromkeys(
        f"{row.precision.partition('+')[0]}: {row.ceiling_gflop_per_s:.0f} GFLOP/s ({row.ceiling})"
        for row in rows
        if row.ceiling_gflop_per_s is not None
    )
    refused = [
        f"{row.model}, {row.backend} {row.precision}, batch {row.batch}: not run: {row.refused}"
        for row in rows
        if row.refused is not None
    ]
    return "\n".join(
        [
            markdown_table(header, body),
            "",
            "Milliseconds a window. x: times as fast, the median over rounds of the round's ratio.",
            "Ceilings: " + "; ".join(ceilings),
            *refused,
        ]
    )


def share(value: float | None) -> str:
    """A share in percent that reads 100% only if it is all."""
    if value is None:
        return "-"
    return "100%" if value == 1 else f"{int(value * 1e6) / 1e4:.4f}%"


def write_latency(folder: Path, run: LatencyRun) -> None:
    """Append to `latency.csv`; write this run's `latency-TIME.json`, and `latency.png` of the CSV.

    Raises:
        UsageError: the CSV there has other columns.
        ResourceError: the plot cannot be written.
        OSError: another file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    require_appendable(folder)
    path = folder / CSV
    text = io.StringIO()
    table = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    if path.exists():
        text.write(path.read_text(encoding="utf-8").rstrip("\n") + "\n")  # an editor may cut it
    else:
        table.writeheader()
    facts = {name: run.machine.get(name) for name in FACTS} | {"started": run.started}
    table.writerows({**facts, **row.to_dict()} for row in run.rows)
    stamp = run.started.replace("-", "").replace(":", "")
    replace_text(folder / f"latency-{stamp}.json", json.dumps(run.to_dict(), indent=1) + "\n")
    replace_text(path, text.getvalue())
    draw_latency(newest_rows(records_from_csv(path)), folder / "latency.png")


def newest_rows(records: Sequence[Record]) -> list[LatencyRow]:
    """Of each network, file, backend and precision the rows of the newest run."""
    return [row for _, row in newest_records(records)]


def newest_records(records: Sequence[Record]) -> list[Record]:
    """As `newest_rows`, with the facts of the runs."""
    newest: dict[tuple[str, ...], str] = {}
    for facts, row in records:
        newest[series_of(row)] = max(facts["started"], newest.get(series_of(row), ""))
    return [(facts, row) for facts, row in records if facts["started"] == newest[series_of(row)]]


def series_of(row: LatencyRow) -> tuple[str, ...]:
    """What a newer run measures anew: network, file, backend and precision, at any batch."""
    return row.network, row.model, row.backend, row.precision


def require_appendable(folder: Path) -> None:
    """Refuse a folder whose CSV cannot grow, before minutes are spent measuring for it.

    Raises:
        UsageError: the CSV there has other columns, or is damaged.
    """
    if (folder / CSV).exists():
        records_from_csv(folder / CSV)


def records_from_csv(path: Path) -> list[Record]:
    """Everything that was ever appended, oldest first.

    Raises:
        UsageError: no such file, other columns, or a value of another type.
    """
    if not path.is_file():
        raise UsageError(f"{path}: no such file; mfnet-bench latency -o {path.parent} writes it")
    types = get_type_hints(LatencyRow)
    records = []
    with path.open(encoding="utf-8", newline="") as file:
        table = csv.DictReader(file)
        if tuple(table.fieldnames or ()) != COLUMNS:
            raise UsageError(
                f"{path}: is not a table of this version (columns {table.fieldnames}); "
                "move it away, or choose another folder"
            )
        for line in table:
            try:
                values = {key: _value(line[key], kind) for key, kind in types.items()}
            except (TypeError, ValueError) as fault:
                raise UsageError(
                    f"{path}: line {table.line_num} is damaged ({fault}); mend or remove it"
                ) from fault
            records.append(({name: line[name] for name in FACTS}, LatencyRow(**values)))
    return records


def _value(text: str, kind: Any) -> Any:
    """A CSV's text as a field's type; empty is None."""
    if not text and kind in (float | None, str | None):
        return None
    return {int: int, float | None: float}.get(kind, str)(text)
