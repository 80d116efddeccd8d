"""Functions called in a process of their own: their errors are raised, and none outlives us."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mfnet_runtime.subprocesses import call_in_subprocess

EVAL = ("builtins", "eval")


def test_errors_are_raised_again(capfd: pytest.CaptureFixture[str]) -> None:
    call_in_subprocess(*EVAL, "print('hello')")
    assert capfd.readouterr().out == ""
    with pytest.raises(OSError, match=r"^division by zero$"):
        call_in_subprocess(*EVAL, "1 / 0")
    crash = "print('well', file=__import__('sys').stderr), __import__('signal').raise_signal(11)"
    with pytest.raises(OSError, match=r"^ended by signal 11, Segmentation fault$"):
        call_in_subprocess(*EVAL, crash)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent")
def test_it_ends_even_with_a_caller_that_is_killed(tmp_path: Path) -> None:
    """It could write into the folder of the next run."""
    note = tmp_path / "pid"
    pid, pause = "str(__import__('os').getpid())", "__import__('signal').pause()"
    work = f"open({str(note)!r}, 'w').write({pid}), {pause}"
    code = "from mfnet_runtime.subprocesses import call_in_subprocess as call"
    code += f"; call(*{EVAL!r}, {work!r})"
    path = os.pathsep.join(part for part in sys.path if part)
    with subprocess.Popen(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path}
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
    """Return whether a process runs and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
