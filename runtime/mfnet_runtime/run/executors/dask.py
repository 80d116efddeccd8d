"""Workers of a Dask cluster, on this machine or on many."""

from __future__ import annotations

import asyncio
import logging
import re
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from ipaddress import ip_address
from itertools import count
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from mfnet_runtime.backends.base import Backend
from mfnet_runtime.errors import MFNetError, ResourceError, UsageError
from mfnet_runtime.run.executors.base import Done
from mfnet_runtime.run.executors.dispatch import dispatch, order_for, with_first
from mfnet_runtime.run.executors.worker import (
    Answer,
    ModelFile,
    Opener,
    Order,
    Station,
    open_station,
)
from mfnet_runtime.run.task import Task
from mfnet_runtime.tiling.batch_size import BatchSize

if TYPE_CHECKING:
    from distributed import Client, Future

PATIENCE = 30  # seconds for a scheduler or a worker to answer

logger = logging.getLogger(__name__)


class DaskExecutor:
    """Does tasks on the workers of a Dask client, which may join and leave meanwhile.

    Args:
        client: Of any cluster; not an asynchronous one.
        opener: Opens the model on a worker; None for the file of the coordinator's backend.
        threads: Of each worker; 0 shares the physical cores of a machine among its workers.
        ship_model: Send the model's bytes, instead of its path.
    """

    def __init__(
        self,
        client: Client,
        opener: Opener | None = None,
        threads: int = 0,
        ship_model: bool = False,
    ) -> None:
        self._client, self._opener = client, opener
        self._threads, self._ship = threads, ship_model
        self.workers = 0

    def run(
        self,
        tasks: Iterable[Task],
        backend: Backend,
        sizes: BatchSize,
        tick: Callable[[int], None],
    ) -> Generator[Done]:
        """See `Executor.run`."""
        first, tasks = with_first(tasks)
        if first is None:
            return
        opener = self._opener or ModelFile.of(backend, self._ship)
        order = order_for(first, opener, backend, self._threads)
        with closing(DaskWorkers(self._client, order)) as workers:

            def count_workers(done: int) -> None:
                self.workers = len(workers.stations)
                tick(done)

            yield from dispatch(workers, tasks, count_workers)


class DaskWorkers:
    """Workers of a client, each with a station: a Dask result that stays on its worker.

    Dask drops the stations when this client is gone, also if it was killed. Tasks name their
    worker; a task whose worker has left the cluster is cancelled.
    """

    def __init__(self, client: Client, order: Order) -> None:
        self._client, self._order = client, order
        self._run, self._numbers = uuid4().hex[:8], count()
        self._opening: dict[str, tuple[Future, Future]] = {}  # stations, and what is wrong there
        self.stations: dict[str, Future] = {}  # by the addresses of workers
        self._refused: set[str] = set()
        self._running: dict[str, Future] = {}
        self._ended: SimpleQueue[tuple[str, Future | None]] = SimpleQueue()
        self._begun = False

    def ready(self) -> list[str]:
        """See `Workers.ready`."""
        here = self._addresses()
        for name in self.stations.keys() - here:
            self.stations.pop(name).release()
            if lost := self._running.pop(name, None):
                lost.cancel()
                self._ended.put((name, None))
        for name in self._opening.keys() - here:
            del self._opening[name]
        neighbours = Counter(_host(name) for name in here)
        for name in here - self.stations.keys() - self._opening.keys() - self._refused:
            self._open(name, neighbours[_host(name)])
        for name, (station, fault) in list(self._opening.items()):
            if fault.done():
                del self._opening[name]
                self._admit(name, station, fault)
        if not self._begun and self._opening:
            return []
        return list(self.stations)

    def _addresses(self) -> set[str]:
        if self._client.status != "running":
            raise self._gone()
        try:
            return set(self._client.nthreads())
        except Exception as fault:  # OSError, TimeoutError, RuntimeError or others, by its state
            raise self._gone() from fault

    def _gone(self) -> ResourceError:
        address = self._client.scheduler.address if self._client.scheduler else "the scheduler"
        return ResourceError(
            f"{address}: does not answer any more; start a scheduler again and continue with "
            "--resume, or without --executor on this machine"
        )

    def _open(self, name: str, neighbours: int) -> None:
        place: dict[str, Any] = {"workers": [name], "pure": False}
        label = f"{name}-{self._run}{next(self._numbers)}"
        station = self._client.submit(
            open_station, self._order, neighbours, key=f"model-{label}", **place
        )
        fault = self._client.submit(_fault_of, station, key=f"check-{label}", **place)
        self._opening[name] = station, fault

    def _admit(self, name: str, station: Future, checked: Future) -> None:
        """Use a worker from now on, or refuse it: the run, if that has not begun."""
        try:
            fault = checked.result(PATIENCE)
        except Exception as failed:  # mfnet is not installed there, or it died
            fault = UsageError(f"{type(failed).__name__}: {failed}; is mfnet installed there?")
        if fault is None:
            self.stations[name] = station
        elif self._begun:
            logger.warning("worker %s is not used: %s", name, fault)
            self._refused.add(name)
        else:
            raise type(fault)(f"worker {name}: {fault}") from fault

    def start(self, worker: str, task: Task) -> None:
        """See `Workers.start`; keys begin with the scene, by which Dask's dashboard groups them."""
        self._begun = True
        key = f"{task.scene.name}-{task.path.stem}-{self._run}{next(self._numbers)}"
        future = self._client.submit(
            Station.attempt, self.stations[worker], task, key=key, workers=[worker], pure=False
        )
        self._running[worker] = future
        future.add_done_callback(lambda ended: self._ended.put((worker, ended)))

    def answers(self) -> Iterator[tuple[str, Answer | None]]:
        """See `Workers.answers`."""
        try:
            name, future = self._ended.get(timeout=1)
        except Empty:
            return
        if future is None:  # lost, see `ready`
            yield name, None
        elif self._running.get(name) is future:
            del self._running[name]
            yield name, self._answer(future)

    def _answer(self, future: Future) -> Answer | None:
        from distributed import KilledWorker

        if future.status in ("cancelled", "lost"):
            if self._client.status != "running":
                raise self._gone()
            return None
        try:
            answer: Answer = future.result(PATIENCE)
        except (KilledWorker, TimeoutError):  # it died during, or just after the task
            return None
        return answer

    def close(self) -> None:
        """Cancel what is running, and release the devices of workers."""
        if self._client.status != "running":
            return
        self._client.cancel([*self._running.values()])
        ends = [
            self._client.submit(Station.close, station, workers=[name], pure=False)
            for name, station in self.stations.items()
            if name not in self._running
        ]
        if ends:
            from distributed import wait

            with suppress(asyncio.TimeoutError):  # of a worker that hangs: the tasks are done
                wait(ends, timeout=PATIENCE)


def _fault_of(station: Station | MFNetError) -> MFNetError | None:
    return station if isinstance(station, MFNetError) else None


def _host(address: str) -> str:
    return address.rpartition(":")[0]


@contextmanager
def connected(address: str, insecure: bool = False) -> Iterator[Client]:
    """Connect to a scheduler, or start workers on this machine.

    Args:
        address: `local:N`, `tls://HOST:PORT` or `tcp://HOST:PORT`.
        insecure: Allow `tcp://` to other machines: whoever reaches its port runs code on all.

    Raises:
        UsageError: the address, or the certificates, are wrong.
        ResourceError: nobody answers there.
    """
    from distributed import Client, LocalCluster, Security

    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # the faults are reported by us
    kind, _, rest = address.partition(":")
    if kind == "local" and rest.isdigit() and int(rest):
        with (
            LocalCluster(
                n_workers=int(rest),
                threads_per_worker=1,
                host="127.0.0.1",
                dashboard_address="127.0.0.1:0",
                silence_logs=logging.CRITICAL,
            ) as cluster,
            Client(cluster) as client,
        ):
            yield client
        return
    if kind not in ("tls", "tcp") or not re.fullmatch(r"//.+:\d+", rest):
        raise UsageError(
            f"--executor dask:{address}: expected dask:tls://HOST:PORT, dask:tcp://HOST:PORT or "
            "dask:local:N"
        )
    if kind == "tcp" and not insecure and not _is_loopback(rest):
        raise UsageError(
            f"--executor dask:{address}: whoever reaches a scheduler without TLS runs code on all "
            "its machines; use tls:// (docs/CLUSTERS.md), or add --insecure"
        )
    security = Security(require_encryption=True) if kind == "tls" else None
    try:
        secured = security.get_connection_args("client") if security else {}
        reason = "" if secured.get("ssl_context") or not security else "none are set"
    except OSError as fault:
        reason = str(fault)
    if reason:
        raise UsageError(
            f"{address}: no certificates ({reason}); set DASK_DISTRIBUTED__COMM__TLS__CA_FILE, "
            "__CLIENT__CERT and __CLIENT__KEY (docs/CLUSTERS.md)"
        )
    try:
        asyncio.run(asyncio.wait_for(_greet(address, secured), 2 * PATIENCE))
        client = Client(address, security=security, timeout=PATIENCE)
    except (OSError, asyncio.TimeoutError, TypeError) as fault:  # TypeError: it is a worker
        reason = str(fault.__cause__ or "") or str(fault) or "no answer"
        remedy = "compare the certificates" if "SSL" in reason else "is a scheduler there?"
        raise ResourceError(f"{address}: no connection ({reason}); {remedy}") from fault
    with client:
        yield client


async def _greet(address: str, secured: dict[str, Any]) -> None:
    """Shake hands; `Client` would wait forever for a port that listens but is no scheduler's."""
    from distributed.comm.core import connect

    comm = await connect(address, PATIENCE, **secured)
    comm.abort()


def _is_loopback(rest: str) -> bool:
    host = rest.removeprefix("//").rpartition(":")[0].strip("[]")
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
