"""Executors: tasks done by other processes and by Dask workers, with the bytes of a local run."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import rasterio
from place_backend import PlaceBackend
from runs import Spec, digests, interrupt, records, run
from support import write_rgbd_model
from worker_backends import POISON, OpenFaulty, open_place

from mfnet_runtime.backends import backend_from_file
from mfnet_runtime.cli.main import main
from mfnet_runtime.errors import ResourceError, UsageError
from mfnet_runtime.files import sha256_from_file
from mfnet_runtime.run.executors import dask, dispatch
from mfnet_runtime.run.executors.base import Executor
from mfnet_runtime.run.executors.dask import DaskExecutor, connected
from mfnet_runtime.run.executors.processes import Processes, ProcessExecutor
from mfnet_runtime.run.executors.worker import ModelFile, Opener, Station, facts_of
from mfnet_runtime.run.manifest import Manifest
from mfnet_runtime.run.task import Receipt

distributed = pytest.importorskip("distributed")
pytestmark = [
    pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning"),  # threads
    pytest.mark.filterwarnings("ignore::DeprecationWarning:(distributed|tornado|dask)"),
    # of clients whose scheduler is gone
    pytest.mark.filterwarnings(
        "ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning"
    ),
]
Make = Callable[[Opener | None], Executor]


def cluster(**options: Any) -> Any:
    """Two Dask workers in threads of this process."""
    words = {"n_workers": 2, "threads_per_worker": 1, "processes": False, **options}
    return distributed.LocalCluster(dashboard_address="127.0.0.1:0", silence_logs=50, **words)


@pytest.fixture(params=["processes", "dask"])
def make(request: pytest.FixtureRequest) -> Iterator[Make]:
    with ExitStack() as opened:
        if request.param == "processes":
            yield lambda opener: ProcessExecutor(2, opener)
        else:
            client = opened.enter_context(distributed.Client(opened.enter_context(cluster())))
            yield lambda opener: DaskExecutor(client, opener)


def test_same_bytes_also_of_a_continued_run(spec: Spec, whole: dict[str, str], make: Make) -> None:
    run(interrupt(spec), make(open_place))
    assert digests(Path(spec.out)) == whole
    assert len(records(spec, "block")) == 9 + 2, "scenes a and b"
    assert len(records(spec, "end")) == 1
    assert all(outcome.row["resumed"] for outcome in run(spec.again(), make(open_place)))


def test_a_worker_that_dies_is_replaced(spec: Spec, whole: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "mark").touch()
    run(spec, ProcessExecutor(2, OpenFaulty("killed", tmp_path / "mark")))
    assert not (tmp_path / "mark").exists()
    assert digests(Path(spec.out)) == whole


def test_a_worker_that_dies_without_a_task_is_replaced(
    spec: Spec, whole: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ready = Processes.ready
    killed: list[multiprocessing.process.BaseProcess] = []

    def kill_first(processes: Processes) -> list[str]:
        names = ready(processes)
        if not killed:
            killed.extend(multiprocessing.active_children())
            for child in killed:
                child.kill()
                child.join()
        return names

    monkeypatch.setattr(Processes, "ready", kill_first)
    run(spec, ProcessExecutor(1, open_place))
    assert len(killed) == 1
    assert digests(Path(spec.out)) == whole


def test_a_task_that_kills_twice_fails_its_scene_alone(spec: Spec, whole: dict[str, str]) -> None:
    with rasterio.open(Path(spec.scenes) / "image" / "a.tif", "r+") as image:
        pixels = image.read()
        pixels[:, 40, 90] = POISON
        image.write(pixels)
    first, second = run(spec, ProcessExecutor(2, OpenFaulty("killed")))
    assert (first.failed, second.failed) == (True, False)
    assert "a.tif: block " in str(first.error)
    assert "2 workers died while they did it" in str(first.error)
    assert digests(Path(spec.out)) == {
        name: digest for name, digest in whole.items() if name.startswith("b.")
    }


@pytest.mark.parametrize(
    ("kind", "message"), [("full", "No space left on device"), ("memory", "out of memory")]
)
def test_a_worker_without_disk_or_memory_gets_no_more_tasks(
    spec: Spec,
    whole: dict[str, str],
    tmp_path: Path,
    make: Make,
    caplog: pytest.LogCaptureFixture,
    kind: str,
    message: str,
) -> None:
    (tmp_path / "mark").touch()
    run(spec, make(OpenFaulty(kind, tmp_path / "mark", seconds=0.01)))
    assert digests(Path(spec.out)) == whole
    assert caplog.text.count("gets no more tasks") == 1
    assert message in caplog.text


def test_a_disk_that_is_full_for_all_ends_the_run(
    spec: Spec, whole: dict[str, str], make: Make
) -> None:
    with rasterio.open(Path(spec.scenes) / "image" / "a.tif", "r+") as image:
        image.write(image.read() | 255)
    with pytest.raises(ResourceError, match=r"No space left on device.*--resume"):
        run(spec, make(OpenFaulty("full")))


@contextmanager
def commands(folder: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A scheduler and a worker as commands; the address, and the scheduler's process."""
    file = folder / "scheduler.json"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with ExitStack() as opened:

        def start(name: str, *words: str) -> subprocess.Popen[bytes]:
            command = [sys.executable, "-m", f"distributed.cli.dask_{name}", *words]
            command += ["--scheduler-file", str(file), "--no-dashboard", "--host", "127.0.0.1"]
            null = subprocess.DEVNULL
            process = subprocess.Popen(command, env=env, stdout=null, stderr=null)
            opened.callback(process.wait)
            opened.callback(process.kill)
            return process

        scheduler = start("scheduler", "--port", "0")
        while not file.exists():
            time.sleep(0.1)
        start("worker", "--nthreads", "1", "--no-nanny")
        yield json.loads(file.read_text())["address"], scheduler


def test_the_scheduler_is_gone(
    spec: Spec, whole: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = Manifest.record
    with commands(tmp_path) as (address, scheduler), connected(address) as client:

        def recording(manifest: Manifest, receipt: Receipt) -> None:
            record(manifest, receipt)
            if len(records(spec, "block")) == 3:
                scheduler.kill()
                while client.status == "running":
                    time.sleep(0.01)

        monkeypatch.setattr(Manifest, "record", recording)
        with pytest.raises(ResourceError, match=r"does not answer any more.*--resume"):
            run(spec, DaskExecutor(client, open_place))
    monkeypatch.undo()
    assert 3 <= len(records(spec, "block")) < 9
    run(spec.again(), ProcessExecutor(1, open_place))
    assert digests(Path(spec.out)) == whole


def test_workers_may_join(spec: Spec, whole: dict[str, str]) -> None:
    with cluster(n_workers=1) as made, distributed.Client(made) as client:
        executor = DaskExecutor(client, OpenFaulty("full", Path("absent"), seconds=0.05))
        client.loop.add_callback(client.loop.call_later, 0.5, made.scale, 3)
        run(spec, executor)
        assert executor.workers == 3
        assert {"a", "b"} <= made.scheduler.task_prefixes.keys(), "as the dashboard groups tasks"
        assert digests(Path(spec.out)) == whole


def test_a_worker_that_hangs_at_the_end_does_not_matter(
    spec: Spec, whole: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Station, "close", lambda station: time.sleep(3))
    with cluster() as made, distributed.Client(made) as client:
        executor = DaskExecutor(client, open_place)
        monkeypatch.setattr(dask, "PATIENCE", 1)
        run(spec, executor)
    assert digests(Path(spec.out)) == whole


def test_workers_of_other_versions_are_refused(
    spec: Spec, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "facts_of", lambda one: {**facts_of(one), "mfnet": "0.0.1"})
    with pytest.raises(UsageError, match=r"mfnet is .*, and 0.0.1 where the run was started"):
        run(spec, make(open_place))
    assert records(spec, "block") == []


def test_workers_without_the_engine_are_refused(
    spec: Spec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_rgbd_model(tmp_path / "rgbd.onnx")
    monkeypatch.delitem(sys.modules, "mfnet_runtime.backends.openvino_cpu", raising=False)
    monkeypatch.setitem(sys.modules, "openvino", None)
    opener = ModelFile(path, sha256_from_file(path), {"name": "openvino"})
    with (
        cluster() as made,
        distributed.Client(made) as client,
        pytest.raises(UsageError, match=r"^worker .*: backend openvino .*pip install"),
    ):
        run(spec, DaskExecutor(client, opener))
    assert records(spec, "block") == []


def test_a_folder_that_is_not_shared_is_refused(
    spec: Spec, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "touch", lambda *_, **__: None)
    with pytest.raises(UsageError, match=r"\.token-.*: not there; all machines must share"):
        run(spec, make(open_place))
    assert records(spec, "block") == []


def test_the_model_is_the_same_file_or_shipped(tmp_path: Path) -> None:
    path = write_rgbd_model(tmp_path / "rgbd.onnx")
    with backend_from_file(path, "onnxruntime") as backend:
        named, shipped = ModelFile.of(backend), ModelFile.of(backend, ship=True)
    write_rgbd_model(path, 64)
    with pytest.raises(UsageError, match="is not the model of this run"):
        named(1)
    path.unlink()
    with pytest.raises(UsageError, match=r"no such model file; .* --ship-model"):
        named(1)
    with shipped(1) as backend:
        assert backend.contract.window == 32
    with pytest.raises(UsageError, match="place: has no model file"):
        ModelFile.of(PlaceBackend())


@pytest.mark.parametrize("executor", ["processes:2", "dask:local:2"])
def test_the_command(
    spec: Spec,
    tmp_path: Path,
    executor: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mfnet_runtime.progress.LOG_SECONDS", 0)
    model = write_rgbd_model(tmp_path / "rgbd.onnx")
    words = f"{model} {spec.scenes} --stride 16 --backend onnxruntime"
    assert main(f"{words} -o {tmp_path}/local".split()) == 0
    capsys.readouterr()
    assert main(f"{words} -o {spec.out} --executor {executor} --ship-model".split()) == 0
    assert digests(Path(spec.out)) == digests(tmp_path / "local")
    said = capsys.readouterr().err
    assert re.search(r"each worker needs about \d+ MB of memory: \d+ MB for the model", said)
    line = r"2 scenes: \d+%, [\d.]+/s, 0:00 min left, 1 blocks and [01] scenes done, 2 workers"
    assert re.search(line, said)


@pytest.mark.parametrize(
    ("executor", "code", "message"),
    [
        ("many", 2, "expected local, processes:N, dask:local:N or dask:tls://HOST:PORT"),
        ("processes:0", 2, "expected local, processes:N"),
        ("dask:local", 2, "expected dask:tls://HOST:PORT"),
        ("dask:tcp://127.0.0.1:port", 2, "expected dask:tls://HOST:PORT"),
        ("dask:tcp://10.0.0.1:8786", 2, "runs code on all its machines; use tls://"),
        ("dask:tls://127.0.0.1:1", 2, "no certificates (none are set); set DASK_DISTRIBUTED"),
        ("dask:tcp://127.0.0.1:1", 5, "no connection (.*); is a scheduler there?"),
        ("processes:2 --trust-plan", 2, "leave out --executor"),
    ],
)
def test_executors_that_are_refused(
    spec: Spec,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    executor: str,
    code: int,
    message: str,
) -> None:
    monkeypatch.setattr(dask, "PATIENCE", 1)
    model = write_rgbd_model(tmp_path / "rgbd.onnx")
    words = f"{model} {spec.scenes} -o {spec.out} --backend onnxruntime --executor {executor}"
    assert main(words.split()) == code
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1, err
    first, _, rest = message.partition(".*")
    assert first in err
    assert rest in err
    assert not Path(spec.out).exists()


@pytest.mark.parametrize("kind", ["silent", "closes", "worker"])
def test_another_program_instead_of_a_scheduler(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dask, "PATIENCE", 0.5)
    with ExitStack() as opened:
        if kind == "worker":
            made = opened.enter_context(cluster(protocol="tcp", host="127.0.0.1", n_workers=1))
            (address,) = made.scheduler.workers
        else:
            port = opened.enter_context(socket.create_server(("127.0.0.1", 0)))
            address = f"tcp://127.0.0.1:{port.getsockname()[1]}"
        if kind == "closes":
            Thread(target=lambda: port.accept()[0].close(), daemon=True).start()
        with (
            pytest.raises(ResourceError, match=r"no connection \(.+\); is a scheduler there\?"),
            connected(address),
        ):
            pass


def certificates(folder: Path) -> Any:
    """A certificate authority of one's own and a certificate, as docs/CLUSTERS.md makes them."""
    folder.mkdir()
    page = Path(__file__).parents[3] / "docs" / "CLUSTERS.md"
    lines = page.read_text().split("```")
    script = next(part for part in lines if "openssl req" in part).partition("\n")[2]
    subprocess.run(["bash", "-e", "-c", script], cwd=folder, check=True, capture_output=True)
    pair = {"cert": str(folder / "mfnet.pem"), "key": str(folder / "mfnet-key.pem")}
    names = {
        f"tls_{role}_{kind}": path
        for role in ("client", "scheduler", "worker")
        for kind, path in pair.items()
    }
    return distributed.Security(
        tls_ca_file=str(folder / "ca.pem"), require_encryption=True, **names
    )


def test_tls(
    spec: Spec, whole: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = certificates(tmp_path / "ours"), certificates(tmp_path / "theirs")
    monkeypatch.setattr(dask, "PATIENCE", 2)
    with cluster(protocol="tls", host="127.0.0.1", security=ours) as made:
        address = made.scheduler_address
        monkeypatch.setattr(distributed, "Security", lambda **_: theirs)
        with pytest.raises(ResourceError, match="compare the certificates"), connected(address):
            pass
        (tmp_path / "theirs" / "ca.pem").unlink()
        with pytest.raises(UsageError, match=r"no certificates \(.*No such"), connected(address):
            pass
        monkeypatch.setattr(distributed, "Security", lambda **_: ours)
        with connected(address) as client:
            run(spec, DaskExecutor(client, open_place))
    assert digests(Path(spec.out)) == whole
