"""Latencies as tables, as JSON, and as the lines of a CSV file that only grows."""

from __future__ import annotations

import csv
import io
import json
import logging
from collections.abc import Sequence
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_type_hints

from mfnet_bench.latency.run import LatencyRow, LatencyRun
from mfnet_bench.machine import PACKAGES
from mfnet_bench.table import figure, markdown_table, percent
from mfnet_runtime.errors import UsageError
from mfnet_runtime.files import replace_text

CSV = "latency.csv"
FACTS = ("started", "cpu", "cores", "flags", "system", "python", *PACKAGES)
COLUMNS = (*FACTS, *(field.name for field in fields(LatencyRow)))
TITLES = {
    "torch published": "PyTorch eager, as published",
    "torch mfnet": "PyTorch eager, mfnet",
    "torch autocast": "PyTorch autocast, as published",
    "torch compiled": "torch.compile, as published",
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
    "tensorrt": "TensorRT",
}

Record = tuple[dict[str, str], LatencyRow]  # facts of the run, and one of its rows
logger = logging.getLogger(__name__)


def latency_table(rows: Sequence[LatencyRow]) -> str:
    """Return a Markdown table of what ran, then a line for each engine that did not."""
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
            percent(row.agreement),
            "-" if row.logit_difference is None else f"{row.logit_difference:.0e}",
            figure(row.gflop, 1),
            figure(row.gflop_per_s, 0),
            _whole_percent(row.ceiling_fraction),
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
            "Milliseconds per window. x: times as fast, the median over rounds of each round's "
            "ratio. On a GPU the data lie in its memory, except for ONNX Runtime, which copies.",
            "Ceilings: " + "; ".join(ceilings),
            *refused,
        ]
    )


def summary_from_folder(folder: Path) -> str:
    """Return the README's table: the newest run of every engine at its best batch.

    Raises:
        UsageError: There is no `latency.csv`, or a damaged one.
    """
    records = best_records(records_from_csv(folder / CSV))
    if not records:
        raise UsageError(f"{folder / CSV}: holds no row that ran; run mfnet-bench latency again")
    header = [
        "network", "runs in", "precision", "batch", "ms a window", "speed-up",
        "of the ceiling", "same class", "memory, MB",
    ]  # fmt: skip
    body: list[list[str]] = []
    network = ""
    for _, row in records:
        body.append(
            [
                row.network if row.network != network else "",
                TITLES.get(row.backend, row.backend),
                row.precision,
                str(row.batch),
                figure(row.median_ms, 0 if (row.median_ms or 0) >= 100 else 1),
                "-" if row.ratio_published is None else f"{row.ratio_published:.2f}x",
                _whole_percent(row.ceiling_fraction),
                percent(row.agreement),
                figure(row.peak_rss_mb, 0),
            ]
        )
        network = row.network
    notes = "Speed-up is over PyTorch eager as published; the ceiling is this machine's fastest "
    notes += "matrix product of the same precision."
    machines = dict.fromkeys(_machine_text(record) for record in records)
    return f"{markdown_table(header, body)}\n\n" + "\n".join([notes, *machines])


def _whole_percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.0%}"


def _machine_text(record: Record) -> str:
    facts, row = record
    versions = ", ".join(f"{name} {facts[name]}" for name in PACKAGES if facts[name])
    gpu = "" if row.device is None or row.device.startswith("CPU") else f", {row.device}"
    return (
        f"Windows of {row.window} px on {row.threads} threads of {facts['cpu']} "
        f"({facts['flags'] or facts['system']}){gpu}, {facts['started'][:10]}, "
        f"Python {facts['python']}, {versions}."
    )


def best_records(records: Sequence[Record]) -> list[Record]:
    """Return the newest run of each file, backend and precision, at the fastest batch."""
    best: dict[tuple[str, ...], Record] = {}
    for facts, row in newest_records([record for record in records if record[1].median_ms]):
        known = best.setdefault(_series(row), (facts, row))
        if (row.median_ms or 0) < (known[1].median_ms or 0):
            best[_series(row)] = (facts, row)
    order = list(dict.fromkeys(row.network for _, row in best.values()))
    return sorted(best.values(), key=lambda record: order.index(record[1].network))


def newest_records(records: Sequence[Record]) -> list[Record]:
    """Return the rows of the newest run of each network, file, backend and precision."""
    newest: dict[tuple[str, ...], str] = {}
    for facts, row in records:
        newest[_series(row)] = max(facts["started"], newest.get(_series(row), ""))
    return [(facts, row) for facts, row in records if facts["started"] == newest[_series(row)]]


def _series(row: LatencyRow) -> tuple[str, ...]:
    return row.network, row.model, row.backend, row.precision


def write_latency(folder: Path, run: LatencyRun) -> None:
    """Append to `latency.csv`; write this run's `latency-TIME.json`, and `latency.png` of the CSV.

    Raises:
        UsageError: The CSV there has other columns.
        ResourceError: The plot cannot be written.
        OSError: Another file cannot be written.
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
    if find_spec("matplotlib") is None:
        logger.warning("%s: no plot, since matplotlib is not installed", folder)
        return
    from mfnet_bench.latency.plot import draw_latency

    draw_latency([row for _, row in newest_records(records_from_csv(path))], folder / "latency.png")


def require_appendable(folder: Path) -> None:
    """Refuse a folder whose CSV cannot grow, before minutes are spent on measuring.

    Raises:
        UsageError: The CSV there has other columns, or is damaged.
    """
    if (folder / CSV).exists():
        records_from_csv(folder / CSV)


def records_from_csv(path: Path) -> list[Record]:
    """Read everything that was ever appended, oldest first.

    Raises:
        UsageError: No such file, other columns, or a value of another type.
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
    """Convert a CSV's text to a field's type; empty is None."""
    if not text and kind in (float | None, str | None):
        return None
    return {int: int, float | None: float}.get(kind, str)(text)
