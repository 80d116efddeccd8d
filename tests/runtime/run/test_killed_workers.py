"""Workers are killed, frozen and starved at random moments; every run ends in the same bytes."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread

import pytest
from runs import Spec, digests, records, run
from support import SHARED
from worker_backends import OpenFaulty

from mfnet_runtime.cli.main import main
from mfnet_runtime.demo import MODEL
from mfnet_runtime.run import plan
from mfnet_runtime.run.executors.base import Executor
from mfnet_runtime.run.executors.dask import DaskExecutor
from mfnet_runtime.run.executors.processes import ProcessExecutor

distributed = pytest.importorskip("distributed")
dask = pytest.importorskip("dask")

slow = pytest.mark.slow
AUTZEN = SHARED / "data" / "autzen"
SLOW = OpenFaulty("none", Path("absent"), seconds=0.03)
Pids = Callable[[], list[int]]


@contextmanager
def disturbed(spec: Spec, pids: Pids, kind: str, seed: int) -> Iterator[None]:
    """Kill, freeze or starve one worker at a random moment after the first block."""
    rng, ended = random.Random(seed), Event()

    def disturb() -> None:
        while not ended.wait(0.01):
            if records(spec, "block"):
                break
        time.sleep(rng.uniform(0, 0.4))
        victim = rng.choice(pids())
        with suppress(ProcessLookupError):
            os.kill(victim, signal.SIGKILL if kind == "killed" else signal.SIGSTOP)
            while kind == "starved" and not ended.wait(0.1):  # 5 % of the time is left to it
                os.kill(victim, signal.SIGCONT)
                time.sleep(0.005)
                os.kill(victim, signal.SIGSTOP)
            if kind == "frozen for a while":
                time.sleep(rng.uniform(0, 1))
            if kind != "frozen":
                os.kill(victim, signal.SIGCONT)

    (Path(spec.out)).mkdir(exist_ok=True)
    (Path(spec.out) / "manifest.jsonl").touch()
    thread = Thread(target=disturb)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def repeat(
    spec: Spec, whole: dict[str, str], executor: Executor, pids: Pids, kinds: list[str], count: int
) -> None:
    for seed in range(count):
        kind = kinds[seed % len(kinds)]
        again = spec.again(resume=False, out=f"{spec.out}-{seed}")
        with disturbed(again, pids, kind, seed):
            outcomes = run(again, executor)
        assert not any(outcome.failed for outcome in outcomes), (seed, kind)
        assert digests(Path(again.out)) == whole, (seed, kind)


@pytest.mark.parametrize("count", [2, pytest.param(50, marks=slow)])
def test_processes(spec: Spec, whole: dict[str, str], count: int) -> None:
    def pids() -> list[int]:
        return [child.pid for child in multiprocessing.active_children() if child.pid]

    kinds = ["starved", "killed", "frozen for a while"]
    repeat(spec, whole, ProcessExecutor(2, SLOW), pids, kinds, count)


@slow
def test_dask(spec: Spec, whole: dict[str, str]) -> None:
    with (
        dask.config.set({"distributed.scheduler.worker-ttl": "3s"}),
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0", silence_logs=50
        ) as cluster,
        distributed.Client(cluster) as client,
    ):

        def pids() -> list[int]:
            found = [nanny.process.pid for nanny in cluster.workers.values() if nanny.process]
            return [pid for pid in found if pid] or pids()

        kinds = ["starved", "killed", "frozen for a while", "frozen"]
        repeat(spec, whole, DaskExecutor(client, SLOW), pids, kinds, 50)


@slow
@pytest.mark.skipif(not AUTZEN.is_dir(), reason="../shared/data/autzen is not here")
def test_a_real_scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The trained network over the whole scene, in the fastest engine here."""
    monkeypatch.setattr(plan, "block_height", lambda grid: 512)
    words = f"{MODEL} {AUTZEN} --confidence -q"
    for executor in ("local", "processes:2", "dask:local:2"):
        out = tmp_path / executor.replace(":", "")
        assert main([*words.split(), "-o", str(out), "--executor", executor]) == 0
        assert digests(out) == digests(tmp_path / "local"), executor
    blocks = (tmp_path / "local" / "manifest.jsonl").read_text().count('"record": "block"')
    assert blocks > 4
