"""Results of a latency run: the CSV that grows, the README's table and the plot."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mfnet_bench.cli import main
from mfnet_bench.latency.plot import draw_latency
from mfnet_bench.latency.report import (
    best_records,
    latency_table,
    newest_records,
    records_from_csv,
    summary_from_folder,
    write_latency,
)
from mfnet_bench.latency.run import LatencyRow, LatencyRun
from mfnet_bench.table import percent, with_table
from mfnet_runtime.errors import ResourceError, UsageError

ROOT = Path(__file__).parents[3]
BEGIN, END = "<!-- latency:begin -->", "<!-- latency:end -->"
ROW = LatencyRow(
    network="vit_b lora", model="lora.onnx", backend="onnxruntime", precision="fp32", batch=1,
    threads=2, window=256, device="CPU", median_ms=400.0, p95_ms=410.5, ratio_published=2.5,
    agreement=0.999999, ceiling="openvino 512x768x3072", ceiling_gflop_per_s=430.0,
    ceiling_fraction=0.87, peak_rss_mb=900.0, rounds=7, calls=14,
)  # fmt: skip
REFUSED = replace(ROW, precision="bf16", median_ms=None, agreement=None, refused='no "bf16", here')
OLD, NEW = {"started": "2026-01-01"}, {"started": "2026-01-02"}
OLD, NEW = {"started": "2026-01-01"}, {"started": "2026-01-02"}
MACHINE = {"cpu": "CPU, of a kind", "cores": 2, "flags": "avx2", "system": "Linux", "numpy": "2.4"}


def run_of(*rows: LatencyRow, started: str = "2026-11-22T10:00:00Z") -> LatencyRun:
    samples = {0: [400.0], 1: [401.0]}
    return LatencyRun(started, MACHINE, 7, "4 windows", [(row, samples) for row in rows])


def test_rows_survive_the_csv(tmp_path: Path) -> None:
    write_latency(tmp_path, run_of(ROW, REFUSED))
    write_latency(tmp_path, run_of(replace(ROW, batch=4), started="2026-11-23T10:00:00Z"))
    records = records_from_csv(tmp_path / "latency.csv")
    assert [row for _, row in records] == [ROW, REFUSED, replace(ROW, batch=4)]
    assert records[0][0]["cpu"] == "CPU, of a kind"
    assert records[0][0]["openvino"] == ""
    assert records[2][0]["started"] == "2026-11-23T10:00:00Z"
    assert len(list(tmp_path.glob("latency-*.json"))) == 2


def test_a_table_cut_by_an_editor_grows_by_lines(tmp_path: Path) -> None:
    write_latency(tmp_path, run_of(ROW))
    path = tmp_path / "latency.csv"
    path.write_text(path.read_text().rstrip("\n"))
    write_latency(tmp_path, run_of(ROW))
    assert [row for _, row in records_from_csv(path)] == [ROW, ROW]


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    write_latency(tmp_path, run_of(ROW))
    path = tmp_path / "latency.csv"
    path.write_text(path.read_text().replace(",410.5,", ",fast,"))
    with pytest.raises(UsageError, match="line 2 is damaged"):
        records_from_csv(path)


def test_the_plot_is_of_the_newest_run_of_every_network() -> None:
    other, again = replace(ROW, network="other"), replace(ROW, median_ms=1.0)
    newest = newest_records([(OLD, ROW), (OLD, other), (NEW, again)])
    assert newest == [(OLD, other), (NEW, again)]


def test_the_table_shows_the_best_batch_of_the_newest_run() -> None:
    quick, slow = replace(ROW, batch=2, median_ms=300.0), replace(ROW, batch=1, median_ms=350.0)
    other = replace(ROW, backend="openvino")
    records = [(OLD, replace(ROW, median_ms=1.0)), (OLD, other), (NEW, slow), (NEW, quick)]
    found = [row for _, row in best_records([*records, (NEW, REFUSED)])]
    assert sorted(found, key=lambda row: row.backend) == [quick, other]


def test_the_table_names_what_did_not_run() -> None:
    table = latency_table([ROW, REFUSED])
    assert table.splitlines()[-1] == (
        'lora.onnx, onnxruntime bf16, batch 1: not run: no "bf16", here'
    )
    assert "99.9999%" in table
    assert "fp32: 430 GFLOP/s (openvino 512x768x3072)" in table
    assert percent(0.9999999) == "99.9999%"  # 100% only if it is all
    assert percent(1.0) == "100%"
    assert percent(None) == "-"


def test_a_document_gets_its_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_latency(tmp_path, run_of(ROW))
    document = tmp_path / "README.md"
    document.write_text(f"# a\n{BEGIN}\nold\n{END}\nrest\n")
    assert main(["table", str(tmp_path), "--into", str(document)]) == 0
    text = document.read_text()
    assert text.startswith(f"# a\n{BEGIN}\n| network")
    assert text.endswith(f"\n{END}\nrest\n")
    assert "old" not in text
    assert "2.50x" in text
    assert main(["table", str(tmp_path)]) == 0
    assert capsys.readouterr().out.strip() in text


@pytest.mark.parametrize("text", ["no marks", f"{END} {BEGIN}", BEGIN])
def test_a_document_without_marks(text: str) -> None:
    with pytest.raises(UsageError, match="put <!-- latency:begin"):
        with_table(text, "table", "latency", "README.md")


def test_no_results_yet(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        summary_from_folder(tmp_path)
    write_latency(tmp_path, run_of(REFUSED))
    with pytest.raises(UsageError, match="no row that ran"):
        summary_from_folder(tmp_path)


def test_a_plot_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="cannot write the plot"):
        draw_latency([ROW], tmp_path / "nowhere" / "latency.png")


@pytest.mark.parametrize("mark", ["latency", "gpu"])
def test_the_readme_shows_what_was_measured(mark: str) -> None:
    results = ROOT / "benchmarks" / "results" / mark
    if not (results / "latency.csv").is_file():
        pytest.skip(f"nothing measured yet: {results}")
    text = (ROOT / "benchmarks" / "README.md").read_text()
    assert with_table(text, summary_from_folder(results), mark, "README.md") == text
