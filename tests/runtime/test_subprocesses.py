"""Functions called in a process of their own: how they fail is told, and they end when told to."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mfnet_runtime.subprocesses import call_apart

EVAL = ("builtins", "eval")


def test_what_went_wrong_is_raised_again() -> None:
    call_apart(*EVAL, "1 + 1")
    with pytest.raises(OSError, match=r"^division by zero$"):
        call_apart(*EVAL, "1 / 0")


def test_what_it_prints_is_not_ours(capfd: pytest.CaptureFixture[str]) -> None:
    call_apart(*EVAL, "print('hello')")
    assert capfd.readouterr().out == ""


def test_a_crash_is_told_by_its_signal() -> None:
    crash = "print('well', file=__import__('sys').stderr), __import__('signal').raise_signal(11)"
    with pytest.raises(OSError, match=r"^ended by signal 11, Segmentation fault$"):
        call_apart(*EVAL, crash)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent")
def test_it_ends_even_with_a_caller_that_is_killed(tmp_path: Path) -> None:
    """Else it would go on to write into a folder that another run works in."""
    note = tmp_path / "pid"
    pid, pause = "str(__import__('os').getpid())", "__import__('signal').pause()"
    work = f"open({str(note)!r}, 'w').write({pid}), {pause}"
    call = f"from mfnet_runtime.subprocesses import call_apart; call_apart(*{EVAL!r}, {work!r})"
    path = os.pathsep.join(part for part in sys.path if part)
    with subprocess.Popen(
        [sys.executable, "-c", call], env={**os.environ, "PYTHONPATH": path}
    ) as caller:
        wait_until(lambda: note.exists() and note.read_text() != "")
        caller.kill()
    wait_until(lambda: not is_running(int(note.read_text())))


def wait_until(true: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def is_running(pid: int) -> bool:
    """Not even waiting for somebody to ask how it ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
