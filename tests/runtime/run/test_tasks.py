"""Tasks: blocks that cover a scene, done by any process with the same result."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Generator, Iterable
from pathlib import Path

import pytest
from place_backend import PlaceBackend
from runs import Spec, digests, interrupt, run

from mfnet_runtime.run.executors import base
from mfnet_runtime.run.executors.base import Done, LocalExecutor
from mfnet_runtime.run.plan import block_height
from mfnet_runtime.run.task import Receipt, Task, do
from mfnet_runtime.tiling.grid import WindowGrid

WORKER = """
import pickle, sys
sys.path[:] = {path!r}
from place_backend import PlaceBackend
from mfnet_runtime.run.task import do
task = pickle.load(open(sys.argv[1], "rb"))
pickle.dump(do(task, PlaceBackend()), open(sys.argv[1] + ".done", "wb"))
"""


def test_tasks_are_done_by_other_processes_in_any_order(
    spec: Spec, whole: dict[str, str], tmp_path: Path
) -> None:
    class Elsewhere(LocalExecutor):
        def run(self, tasks: Iterable[Task], *_: object) -> Generator[Done]:
            for index, task in enumerate(reversed(list(tasks))):  # of both scenes
                if index % 4:
                    yield task, do(task, PlaceBackend())
                    continue
                path = tmp_path / "task"
                path.write_bytes(pickle.dumps(task))
                code = WORKER.format(path=sys.path)
                subprocess.run([sys.executable, "-c", code, str(path)], check=True)
                yield task, pickle.loads(path.with_suffix(".done").read_bytes())

    run(spec, Elsewhere())
    assert digests(Path(spec.out)) == whole


@pytest.mark.parametrize("read", [{"image_percentiles": (2, 98)}, {"align": True}])
def test_statistics_of_a_scene_are_the_same_for_all_blocks(
    spec: Spec, read: dict[str, object]
) -> None:
    read = {**read, "bbox": (500_005, 5_399_980, 500_030, 5_399_995)}
    run(spec.again(read=read, resume=False))
    one = spec.again(read=read, resume=False, out=spec.out + "1", rows=99, options={"block": None})
    (outcome, _) = run(one)
    assert outcome.row["blocks"] == 1
    assert digests(Path(spec.out)) == digests(Path(one.out))


def test_only_missing_tasks_are_done(
    spec: Spec, whole: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    again, done = interrupt(spec, 5), []

    def note(task: Task, *words: object) -> Receipt:
        done.append(task.path.name)
        return do(task, *words)  # type: ignore[arg-type]

    monkeypatch.setattr(base, "do", note)
    outcomes = run(again)
    assert len(done) == 9 - 5 + 2  # of scenes a and b
    assert digests(Path(spec.out)) == whole
    assert [outcome.row["blocks"] for outcome in outcomes] == [4, 2]
    assert [outcome.row["resumed"] for outcome in run(again)] == [True, True]


@pytest.mark.parametrize("options", [{"block": 24}, {"block": 100}, {"block": None}])
@pytest.mark.parametrize("rows", [16, 40, 1000])
def test_same_bytes_in_blocks_of_any_size(
    spec: Spec, whole: dict[str, str], options: dict[str, object], rows: int
) -> None:
    run(spec.again(resume=False, options=options, rows=rows))
    assert digests(Path(spec.out)) == whole


@pytest.mark.parametrize(
    ("window", "stride", "expected"),
    [(256, 128, 4096), (256, 256, 2048), (256, 64, 6144), (1024, 512, 16384), (256, 100, 6400)],
)
def test_few_windows_are_repeated_at_borders_of_blocks(
    window: int, stride: int, expected: int
) -> None:
    grid = WindowGrid(40_000, window, window, stride)
    height = block_height(grid)
    assert height == expected
    bands = [range(top, min(top + height, 40_000)) for top in range(0, 40_000, height)]
    rows = sum(len(WindowGrid(40_000, window, window, stride, band=band).rows) for band in bands)
    assert rows <= 1.035 * len(grid.rows)


def test_receipts_of_other_blocks_do_not_hold(spec: Spec, whole: dict[str, str]) -> None:
    """A continued run may have other blocks, at the same places."""
    run(interrupt(spec).again(options={"block": 96}, rows=32))
    assert digests(Path(spec.out)) == whole
