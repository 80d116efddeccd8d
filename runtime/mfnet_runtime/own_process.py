"""Calls one of our functions in a process of its own, where an interrupt ends it at once.

A library's call that takes minutes hears of no Ctrl-C until it returns.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import import_module


def call_apart(module: str, function: str, *words: str) -> None:
    """Run `module.function(*words)` in a new process; it dies with this call, however that ends.

    Raises:
        OSError: it failed; the message is the one it failed with.
    """
    command = [sys.executable, "-m", __name__, module, function, json.dumps(words)]
    paths = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    with subprocess.Popen(
        command, env=paths, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            said = process.communicate()[1]
        finally:
            process.kill()
    if process.returncode:
        lines = said.strip().splitlines() or [f"ended with code {process.returncode}"]
        raise OSError(lines[-1])


if __name__ == "__main__":
    try:
        getattr(import_module(sys.argv[1]), sys.argv[2])(*json.loads(sys.argv[3]))
    except Exception as fault:  # raised again in the caller
        sys.exit(" ".join(str(fault.__cause__ or fault).split()) or type(fault).__name__)
