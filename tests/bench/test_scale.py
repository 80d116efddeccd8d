"""The simulation of long runs: its counts add up, and memory is read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from mfnet_bench import scale, throughput

pytestmark = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="not on Linux")


@pytest.fixture(autouse=True)
def _small_town(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throughput, "TOWN", 128)


def simulate(*words: str) -> dict[str, int]:
    done = CliRunner().invoke(scale.main, words, catch_exceptions=False)
    found: dict[str, int] = json.loads(done.stdout)[words[0]]
    return found


def test_plans(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scale, "SIDE", 300)
    found = simulate("plan", "--scenes", "3")
    assert [found[name] for name in ("pixels", "windows", "receipts")] == [3 * 300**2, 12, 3]
    assert 0 < found["mb_before"] <= found["mb"]


def test_receipts() -> None:
    found = simulate("receipts", "--scenes", "3", "--blocks", "4")
    assert found["receipts"] == 12
    assert found["mb"] > 0
