"""The executor that a text names; imports nothing heavy, so that `--help` stays instant."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mfnet_runtime.errors import UsageError

if TYPE_CHECKING:
    from mfnet_runtime.run.executors.base import Executor


@dataclass(frozen=True)
class ExecutorOptions:
    """Options of the executor, named as on the command line."""

    executor: str = "local"
    insecure: bool = False  # no TLS to other machines
    ship_model: bool = False  # the model's bytes, not its path

    @contextmanager
    def open(self, threads: int = 0) -> Iterator[Executor]:
        """Yield the executor; a cluster of this machine ends with the context.

        Args:
            threads: Of each worker; 0 shares the physical cores.

        Raises:
            UsageError: there is no such executor, or it may not be used.
            ResourceError: no scheduler answers.
            ModuleNotFoundError: Dask is asked for, and its extra is not installed.
        """
        kind, _, rest = self.executor.partition(":")
        if kind == "dask" and rest:
            from mfnet_runtime.run.executors.dask import DaskExecutor, connected

            with connected(rest, self.insecure) as client:
                yield DaskExecutor(client, threads=threads, ship_model=self.ship_model)
        elif kind == "processes" and rest.isdigit() and int(rest):
            from mfnet_runtime.run.executors.processes import ProcessExecutor

            yield ProcessExecutor(int(rest), threads=threads)
        elif self.executor == "local":
            from mfnet_runtime.run.executors.base import LOCAL

            yield LOCAL
        else:
            raise UsageError(
                f"--executor {self.executor}: expected local, processes:N, dask:local:N or "
                "dask:tls://HOST:PORT"
            )
