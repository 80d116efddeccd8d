"""A long call into TensorRT that reports progress and can be interrupted.

TensorRT occupies its thread for minutes, and Python handles Ctrl-C in the main thread only, so the
call runs in a thread of its own. TensorRT's progress monitor ends it early; 8.6 has no monitor
and builds to the end.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from threading import Event, Thread
from typing import Any, TypeVar

T = TypeVar("T")
logger = logging.getLogger(__name__)

POLL = 0.2  # seconds between looks at the progress
QUIET = 60.0  # seconds without a message after which the elapsed time is reported


@dataclass
class Watch:
    """State shared by the two threads."""

    stopped: bool = False
    phase: str = ""  # outermost phase that runs, for example `Building Engine 2/5`


def monitor_build(trt: Any, config: Any, watch: Watch) -> None:
    """Let a build report its progress to a watch, if this version of TensorRT can."""
    if not hasattr(trt, "IProgressMonitor"):  # before 9
        return

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        """Does very little, because it is called while kernels are timed."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)  # pybind11 requires this explicit call
            self._steps: dict[str, int] = {}  # of the outermost phases

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if parent_phase is None:
                self._steps[phase_name] = num_steps

        def step_complete(self, phase_name: str, step: int) -> bool:
            if phase_name in self._steps:
                watch.phase = f"{phase_name} {step + 1}/{self._steps[phase_name]}"
            return not watch.stopped

        def phase_finish(self, phase_name: str) -> None:
            self._steps.pop(phase_name, None)

    config.progress_monitor = Monitor()


def run_watched(call: Callable[[], T], watch: Watch) -> T:
    """Run a call in a thread of its own and log its progress.

    An interrupt stops the watch and waits for the call to end; a second interrupt does not wait.

    Raises:
        Exception: Whatever the call raises.
    """
    results: list[T] = []
    faults: list[BaseException] = []
    ended = Event()

    def run() -> None:
        try:
            results.append(call())
        except BaseException as fault:  # raised again below, in the thread of the caller
            faults.append(fault)
        finally:
            ended.set()

    worker = Thread(target=run, name="mfnet-build", daemon=True)
    started = spoken = time.monotonic()
    phase = ""
    try:
        worker.start()
        while not ended.wait(POLL):
            now = time.monotonic()
            if watch.phase != phase:
                phase, spoken = watch.phase, now
                logger.info(phase)
            elif now - spoken >= QUIET:
                spoken = now
                logger.info("still building after %.0f min", (now - started) / 60)
    except BaseException:
        watch.stopped = True
        if worker.ident is not None:
            logger.info("stopping: TensorRT ends at its next step")
            ended.wait()
        raise
    if faults:
        raise faults[0]
    return results[0]
