"""The README's table: the newest run of every engine at its best batch, out of `latency.csv`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mfnet_bench.latency.machine import PACKAGES
from mfnet_bench.latency.report import (
    CSV,
    Record,
    newest_records,
    records_from_csv,
    series_of,
    share,
)
from mfnet_bench.table import figure, markdown_table
from mfnet_runtime.errors import UsageError

MARK = "latency"  # of its place in a document
NAMES = {
    "torch published": "PyTorch eager, as published",
    "torch mfnet": "PyTorch eager, mfnet",
    "torch compiled": "torch.compile, as published",
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
}


def summary_from_folder(folder: Path) -> str:
    """A Markdown table and the machine it is true of.

    Raises:
        UsageError: no `latency.csv` there, or a damaged one.
    """
    records = best_records(records_from_csv(folder / CSV))
    if not records:
        raise UsageError(f"{folder / CSV}: holds no row that ran; run mfnet-bench latency again")
    header = [
        "network", "runs in", "precision", "batch", "ms a window", "speed-up",
        "of the ceiling", "same class", "memory, MB",
    ]  # fmt: skip
    body = []
    network = ""
    for _, row in records:
        ratio = "-" if row.ratio_published is None else f"{row.ratio_published:.2f}x"
        body.append(
            [
                row.network if row.network != network else "",
                NAMES.get(row.backend, row.backend),
                row.precision,
                str(row.batch),
                figure(row.median_ms, 0 if (row.median_ms or 0) >= 100 else 1),
                ratio,
                "-" if row.ceiling_fraction is None else f"{row.ceiling_fraction:.0%}",
                share(row.agreement),
                figure(row.peak_rss_mb, 0),
            ]
        )
        network = row.network
    notes = "Speed-up is over PyTorch eager as published; the ceiling is this machine's fastest "
    notes += "matrix product of the same precision."
    machines = dict.fromkeys(_machine_text(record) for record in records)
    return f"{markdown_table(header, body)}\n\n" + "\n".join([notes, *machines])


def best_records(records: Sequence[Record]) -> list[Record]:
    """Of each network, file, backend and precision the newest run, at the batch of least time."""
    ran = [(facts, row) for facts, row in records if row.median_ms is not None]
    best: dict[tuple[str, ...], Record] = {}
    for facts, row in newest_records(ran):
        known = best.setdefault(series_of(row), (facts, row))
        if (row.median_ms or 0) < (known[1].median_ms or 0):
            best[series_of(row)] = (facts, row)
    order = list(dict.fromkeys(row.network for _, row in best.values()))
    return sorted(best.values(), key=lambda record: order.index(record[1].network))


def _machine_text(record: Record) -> str:
    facts, row = record
    versions = ", ".join(f"{name} {facts[name]}" for name in PACKAGES if facts[name])
    return (
        f"Windows of {row.window} px on {row.threads} threads of {facts['cpu']} "
        f"({facts['flags'] or facts['system']}), {facts['started'][:10]}, "
        f"Python {facts['python']}, {versions}."
    )
