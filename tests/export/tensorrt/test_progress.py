"""Long calls into TensorRT; `test_rtx` has a real build with progress that is interrupted."""

from __future__ import annotations

import signal
import time
from threading import Event, main_thread

import pytest

from mfnet_export.tensorrt.progress import Watch, run_watched


def interrupt() -> None:
    """Send Ctrl-C from another thread."""
    time.sleep(0.05)
    signal.pthread_kill(main_thread().ident or 0, signal.SIGINT)


def test_an_interrupt_waits_for_the_call_and_a_second_does_not() -> None:
    watch, ended = Watch(), Event()

    def call() -> None:
        interrupt()
        time.sleep(0.3)
        ended.set()

    with pytest.raises(KeyboardInterrupt):
        run_watched(call, watch)
    assert watch.stopped
    assert ended.is_set()

    def endless() -> None:
        interrupt()
        interrupt()
        never.wait(10)

    never, started = Event(), time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_watched(endless, Watch())
    assert time.monotonic() - started < 5
    never.set()


def test_errors_of_the_call_are_raised() -> None:
    def crash() -> None:
        raise RuntimeError("in another thread")

    with pytest.raises(RuntimeError, match="in another thread"):
        run_watched(crash, Watch())


def test_the_elapsed_time_is_logged(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TensorRT reports little while it times kernels, and 8.6 nothing at all."""
    caplog.set_level("INFO")
    monkeypatch.setattr("mfnet_export.tensorrt.progress.QUIET", 0)
    assert run_watched(lambda: time.sleep(0.5) or 7, Watch()) == 7  # type: ignore[func-returns-value]
    assert "still building after 0 min" in caplog.messages
