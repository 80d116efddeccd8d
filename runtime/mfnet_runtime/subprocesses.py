"""Long calls of a library in a process of their own, where an interrupt ends them at once.

GDAL does not notice Ctrl-C before it returns, which may take minutes.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from importlib import import_module

PR_SET_PDEATHSIG = 1  # of prctl


def call_in_subprocess(module: str, function: str, *arguments: str) -> None:
    """Run `module.function(*arguments)` in a new process, which ends with this call in any case.

    Raises:
        OSError: it failed; the message is that of its exception, or the signal that ended it.
    """
    command = [sys.executable, "-m", __name__, module, function, json.dumps(arguments)]
    path = os.pathsep.join(part for part in sys.path if part)
    with subprocess.Popen(
        command,
        env={**os.environ, "PYTHONPATH": path},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    ) as process:
        try:
            printed = process.communicate()[1]
        finally:
            process.kill()
    if process.returncode < 0:
        number = -process.returncode
        raise OSError(f"ended by signal {number}, {signal.strsignal(number) or 'unknown'}")
    if process.returncode:
        lines = printed.strip().splitlines() or [f"ended with code {process.returncode}"]
        raise OSError(lines[-1])


def end_with_parent() -> None:
    """Have Linux kill this process when its parent ends, even if that is killed."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    try:
        end_with_parent()
        getattr(import_module(sys.argv[1]), sys.argv[2])(*json.loads(sys.argv[3]))
    except Exception as raised:
        fault = raised.__cause__ or raised  # GDAL's own message
        sys.exit(" ".join(str(fault).split()) or type(fault).__name__)
