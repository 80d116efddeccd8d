"""Runs commands in children forked from a process that has imported everything once. Linux.

A child is a process of its own, so its exit, memory and time are real, and it costs no start of
Python. Asked by lines of JSON on standard input, answers by lines on standard output; see
`runner.py`, which starts it. Words: what to import; entry points as module:function.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import pkgutil
import resource
import signal
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

CAPABILITIES = 0x20080522  # version of what `capset` takes
POLL = 0.002  # seconds
OPTIONAL = {"pycuda", "tensorrt"}  # packages that need not be there
LATER = ("click._termui_impl", "numpy.ma")  # what a command would import only when it needs it


@dataclass(frozen=True)
class _Started:
    """A child."""

    at: float  # seconds, monotonic
    events: int  # end of a pipe, to which no limit on files applies
    log: Path  # where they go in the end


def main() -> None:
    """Answer until standard input ends."""
    commands = {name: _entry(name) for name in sys.argv[1:] if ":" in name}
    for name in sys.argv[1:]:
        import_module(name.partition(":")[0])
    _import_all("mfnet_runtime")
    for module in LATER:
        import_module(module)
    started: dict[int, _Started] = {}
    print("ready", flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        if asked["do"] == "start":
            assert len(os.listdir("/proc/self/task")) == 1
            reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
            fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 1 << 20)
            pid = os.fork()
            if not pid:
                os.close(reader)
                sys.exit(_run(commands[asked["command"]], asked, writer))
            os.close(writer)
            started[pid] = _Started(time.monotonic(), reader, Path(asked["said"]) / "events")
            print(json.dumps({"pid": pid}), flush=True)
        else:
            pid = asked["pid"]
            print(json.dumps(_ended(pid, started.pop(pid), asked["watchdog"])), flush=True)


def _entry(name: str) -> Callable[[list[str]], int]:
    module, function = name.split(":")
    found: Callable[[list[str]], int] = getattr(import_module(module), function)
    return found


def _import_all(package: str) -> None:
    """All of a package but its engines, which start threads when imported: none live in a fork."""
    for module in pkgutil.walk_packages(import_module(package).__path__, f"{package}."):
        try:
            import_module(module.name)
        except ModuleNotFoundError as fault:
            if fault.name not in OPTIONAL:
                raise


def _run(command: Callable[[list[str]], int], asked: dict[str, Any], events: int) -> int:
    """In the child: the command under the conditions asked for."""
    os.setsid()  # a signal to its group is no signal to the server
    signal.signal(signal.SIGINT, signal.default_int_handler)
    warnings.simplefilter("default")
    said = Path(asked["said"])
    os.close(0)
    _redirect(1, asked["stdout"] or str(said / "out"))
    _redirect(2, str(said / "err"))
    for name, value in asked["limits"].items():
        resource.setrlimit(getattr(resource, name), (value, value))
    if asked["plain_user"]:  # root without capabilities is bound by the modes of files
        head, none = (ctypes.c_uint32 * 2)(CAPABILITIES, 0), (ctypes.c_uint32 * 6)()
        assert ctypes.CDLL(None).capset(head, none) == 0
    os.chdir(asked["folder"])
    os.nice(asked["niceness"])
    sys.addaudithook(_noted(events))
    code = command(asked["words"])
    if asked["at_once"]:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def _redirect(handle: int, path: str) -> None:
    """A file, or "closed pipe": one that nobody reads."""
    if path == "closed pipe":
        reader, opened = os.pipe()
        os.close(reader)
    else:
        opened = os.open(path, os.O_WRONLY | os.O_CREAT)
    os.dup2(opened, handle)
    os.close(opened)


def _noted(log: int) -> Callable[[str, tuple[Any, ...]], None]:
    """Writes down which files Python opens, and sockets and processes it makes."""

    def hook(event: str, details: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(details[0], int):
            return
        if event == "open" or event.startswith(("socket.", "subprocess.", "os.system", "os.exec")):
            what = os.fsdecode(details[0]) if event == "open" else repr(details)
            os.write(log, json.dumps([event, what]).encode() + b"\n")

    return hook


def _ended(pid: int, child: _Started, watchdog: float) -> dict[str, Any]:
    """How a child ended; one that does not is killed."""
    hung = False
    while True:
        found, status, usage = os.wait4(pid, os.WNOHANG)
        if found:
            break
        if time.monotonic() - child.at > watchdog:
            hung = True
            os.kill(pid, signal.SIGKILL)
        time.sleep(POLL)
    seconds = time.monotonic() - child.at
    with open(child.events, "rb") as events:
        child.log.write_bytes(events.read() or b"")
    code = os.waitstatus_to_exitcode(status)
    return {"code": code, "seconds": seconds, "memory": usage.ru_maxrss << 10, "hung": hung}


if __name__ == "__main__":
    main()
