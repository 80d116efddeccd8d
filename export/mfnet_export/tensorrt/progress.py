"""A long call into TensorRT that tells how far it is and can be interrupted. Knows no networks.

TensorRT holds its thread for minutes and Python acts on Ctrl-C in the main thread alone, so the
call runs in a thread of its own. TensorRT ends it early through its progress monitor; 8.6 has none
and ends when it ends.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from threading import Event, Thread
from typing import Any, Generic, TypeVar

T = TypeVar("T")

LOOK = 0.2  # seconds between looks at how far it is
QUIET = 60.0  # seconds without a word after which the time is told


@dataclass
class Watch:
    """What the two threads know of each other."""

    stopped: bool = False
    phase: str = ""  # the outermost that runs, as `Building Engine 2/5`


def watch_build(trt: Any, config: Any, watch: Watch) -> None:
    """Let a build configuration report to a watch, where TensorRT can."""
    if not hasattr(trt, "IProgressMonitor"):  # before 9
        return

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        """Does next to nothing: it is called amid timings."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)  # pybind11 wants it called by name
            self._outermost: dict[str, int] = {}  # to its steps

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if parent_phase is None:
                self._outermost[phase_name] = num_steps

        def step_complete(self, phase_name: str, step: int) -> bool:
            if phase_name in self._outermost:
                watch.phase = f"{phase_name} {step + 1}/{self._outermost[phase_name]}"
            return not watch.stopped

        def phase_finish(self, phase_name: str) -> None:
            self._outermost.pop(phase_name, None)

    config.progress_monitor = Monitor()


def watched(call: Callable[[], T], watch: Watch, tell: Callable[[str], None]) -> T:
    """Run a call in a thread; an interrupt stops the watch and waits for the call to end.

    A second interrupt does not wait.

    Raises:
        Exception: whatever the call raises.
    """
    started = time.monotonic()
    worker = _Worker(call)
    told, spoken = "", started
    try:
        worker.start()
        while not worker.ended.wait(LOOK):
            now = time.monotonic()
            if watch.phase != told:
                tell(told := watch.phase)
                spoken = now
            elif now - spoken >= QUIET:
                tell(f"still at it, {(now - started) / 60:.0f} min")
                spoken = now
    except BaseException:
        watch.stopped = True
        if worker.ident is not None:
            tell("stopping: TensorRT ends at its next step")
            worker.ended.wait()
        raise
    return worker.result()


class _Worker(Thread, Generic[T]):
    """A thread with a result."""

    def __init__(self, call: Callable[[], T]) -> None:
        super().__init__(name="mfnet-build", daemon=True)
        self.ended = Event()
        self._call = call
        self._fault: BaseException | None = None
        self._results: list[T] = []

    def run(self) -> None:
        try:
            self._results.append(self._call())
        except BaseException as fault:  # raised again in `result`
            self._fault = fault
        finally:
            self.ended.set()

    def result(self) -> T:
        if self._fault is not None:
            raise self._fault
        return self._results[0]
