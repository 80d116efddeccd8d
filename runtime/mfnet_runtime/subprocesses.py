"""Calls one of our functions in a process of its own, where an interrupt ends it at once.

A library's call that takes minutes hears of no Ctrl-C until it returns; one that crashes takes its
process with it. Both then happen to another process than ours.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from importlib import import_module

from mfnet_runtime.errors import MFNetError

PR_SET_PDEATHSIG = 1  # of Linux' prctl


def call_apart(module: str, function: str, *words: str) -> None:
    """Run `module.function(*words)` in a new process; it dies with this call, however that ends.

    Args:
        module: Where the function is.
        function: Its name.
        words: What it is called with.

    Raises:
        OSError: it failed; the message is the one it failed with, or what ended it.
    """
    command = [sys.executable, "-m", __name__, module, function, json.dumps(words)]
    paths = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    with subprocess.Popen(
        command,
        env=paths,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    ) as process:
        try:
            said = process.communicate()[1]
        finally:
            process.kill()
    if process.returncode < 0:  # what was said before is not why
        number = -process.returncode
        raise OSError(f"ended by signal {number}, {signal.strsignal(number) or 'unknown'}")
    if process.returncode:
        lines = said.strip().splitlines() or [f"ended with code {process.returncode}"]
        raise OSError(lines[-1])


def end_with_parent() -> None:
    """Have this process killed when the one that started it ends, even if that is killed. Linux."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    try:
        end_with_parent()
        getattr(import_module(sys.argv[1]), sys.argv[2])(*json.loads(sys.argv[3]))
    except Exception as raised:  # again in the caller
        # what wraps another fault says less than that, unless it is ours
        fault = raised if isinstance(raised, MFNetError) else raised.__cause__ or raised
        sys.exit(" ".join(str(fault).split()) or type(fault).__name__)
