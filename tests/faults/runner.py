"""Runs commands as real processes without the time that Python takes to start. Linux only.

A server imports everything once and forks a child for each command, whose exit code, peak memory
and time are those of a process. Run as a script, this file is the server: it reads requests and
writes answers as lines of JSON.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import pkgutil
import re
import resource
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

RUN = "mfnet_runtime.cli.main:main"
EXPORT = "mfnet_export.cli:main"
WATCHDOG = 120.0  # seconds after which a child is killed
POLL = 0.002  # seconds
CAPABILITIES = 0x20080522  # version of the structures of `capset`
OPTIONAL = {"pycuda", "tensorrt"}  # packages that may be missing
LATER = ("click._termui_impl", "numpy.ma")  # what a command imports only when it needs it


@dataclass(frozen=True)
class Conditions:
    """What a child runs under."""

    limits: tuple[tuple[str, int], ...] = ()  # for example ("RLIMIT_FSIZE", bytes)
    plain_user: bool = False  # without root's capabilities
    stdout: str | None = None  # a file, or "closed pipe"
    niceness: int = 0  # 19 gives way to all others
    at_once: bool = False  # end without Python's clean-up, which takes torch seconds
    watchdog: float = WATCHDOG


@dataclass(frozen=True)
class Ended:
    """How a child ended."""

    code: int  # exit status, or minus the signal
    seconds: float
    memory: int  # peak of resident bytes
    hung: bool
    out: str
    err: str
    opened: list[str]  # files that Python opened
    reached: list[str]  # sockets and processes

    @property
    def errors(self) -> list[str]:
        """The command's error lines; libraries may print more."""
        return re.findall(r"^(?:mfnet-\w+: )?error: .*", self.err, re.MULTILINE)


@dataclass(frozen=True)
class Running:
    """A child."""

    server: ForkServer
    pid: int
    folder: Path  # for what it prints
    watchdog: float

    def send(self, number: signal.Signals, *, group: bool = False) -> None:
        """Send a signal to it, or to its group as a terminal does."""
        (os.killpg if group else os.kill)(self.pid, number)

    def wait(self) -> Ended:
        """Wait for its end."""
        facts = self.server.ask({"pid": self.pid, "watchdog": self.watchdog})
        events = facts.pop("events")
        out, err = (
            path.read_text(errors="backslashreplace") if path.is_file() else ""
            for path in (self.folder / "out", self.folder / "err")
        )
        opened = [what for event, what in events if event == "open"]
        reached = [f"{event} {what}" for event, what in events if event != "open"]
        return Ended(**facts, out=out, err=err, opened=opened, reached=reached)


class ForkServer:
    """A context manager that starts the server and ends it.

    Args:
        folder: For what children print, and for their home.
        imports: Modules to import, and commands as module:function.
    """

    def __init__(self, folder: Path, *imports: str) -> None:
        self._folder, self._imports = folder, imports
        self.home = folder / "home"

    def __enter__(self) -> ForkServer:
        self.home.mkdir(exist_ok=True)
        path = os.pathsep.join(part for part in sys.path if part)
        # no threads before a fork
        alone = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"), "1")
        self._process = subprocess.Popen(
            [sys.executable, __file__, *self._imports],
            env={**os.environ, **alone, "PYTHONPATH": path, "HOME": str(self.home)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._answer() == "ready"
        return self

    def __exit__(self, *raised: object) -> None:
        self._process.communicate()

    def start(
        self, words: Sequence[object], folder: Path, conditions: Conditions, command: str = RUN
    ) -> Running:
        """Start a command in a folder."""
        said = Path(mkdtemp(dir=self._folder))
        texts = [str(word) for word in words]
        request = {"command": command, "words": texts, "folder": str(folder), "said": str(said)}
        pid = self.ask({**request, "conditions": asdict(conditions)})
        return Running(self, pid, said, conditions.watchdog)

    def ask(self, request: dict[str, Any]) -> Any:
        """Send a request and return its answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())


# --- the server ----------------------------------------------------------------------------------


def serve(imports: Sequence[str]) -> None:
    """Answer until standard input ends."""
    for name in imports:
        import_module(name.partition(":")[0])
    # engines start threads when they are imported, so commands import them after the fork
    for module in pkgutil.walk_packages(import_module("mfnet_runtime").__path__, "mfnet_runtime."):
        try:
            import_module(module.name)
        except ModuleNotFoundError as error:
            if error.name not in OPTIONAL:
                raise
    for name in LATER:
        import_module(name)
    started: dict[int, tuple[float, int]] = {}  # time and end of a pipe for events
    answer("ready")
    for line in sys.stdin:
        request = json.loads(line)
        if "pid" in request:
            answer(ended(request["pid"], *started.pop(request["pid"]), request["watchdog"]))
            continue
        assert len(os.listdir("/proc/self/task")) == 1
        reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)  # limits on files do not apply
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 1 << 20)
        pid = os.fork()
        if not pid:
            os.close(reader)
            sys.exit(run(request, writer))
        os.close(writer)
        started[pid] = time.monotonic(), reader
        answer(pid)


def answer(value: object) -> None:
    print(json.dumps(value), flush=True)


def run(request: dict[str, Any], events: int) -> int:
    """Run a command in the child."""
    module, _, name = request["command"].partition(":")
    command: Callable[[list[str]], int] = getattr(import_module(module), name)
    conditions = Conditions(**request["conditions"])
    os.setsid()  # a signal to its group does not reach the server
    signal.signal(signal.SIGINT, signal.default_int_handler)
    warnings.simplefilter("default")
    os.close(0)
    redirect(1, conditions.stdout or f"{request['said']}/out")
    redirect(2, f"{request['said']}/err")
    for limit, value in conditions.limits:
        resource.setrlimit(getattr(resource, limit), (value, value))
    if conditions.plain_user:  # modes of files bind root without capabilities
        head, none = (ctypes.c_uint32 * 2)(CAPABILITIES, 0), (ctypes.c_uint32 * 6)()
        assert ctypes.CDLL(None).capset(head, none) == 0
    os.chdir(request["folder"])
    os.nice(conditions.niceness)

    def note(event: str, details: tuple[Any, ...]) -> None:
        """Report files that Python opens, and sockets and processes that it creates."""
        if event == "open" and not isinstance(details[0], int):
            os.write(events, json.dumps([event, os.fsdecode(details[0])]).encode() + b"\n")
        elif event.startswith(("socket.", "subprocess.", "os.system", "os.exec")):
            os.write(events, json.dumps([event, repr(details)]).encode() + b"\n")

    sys.addaudithook(note)
    code = command(request["words"])
    if conditions.at_once:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def redirect(handle: int, path: str) -> None:
    """Redirect a stream to a file, or to a pipe that nobody reads."""
    if path == "closed pipe":
        reader, opened = os.pipe()
        os.close(reader)
    else:
        opened = os.open(path, os.O_WRONLY | os.O_CREAT)
    os.dup2(opened, handle)
    os.close(opened)


def ended(pid: int, since: float, events: int, watchdog: float) -> dict[str, Any]:
    """Wait for a child, and kill it if it does not end."""
    hung = False
    while not (found := os.wait4(pid, os.WNOHANG))[0]:
        if time.monotonic() - since > watchdog:
            hung = True
            os.kill(pid, signal.SIGKILL)
        time.sleep(POLL)
    with open(events) as pipe:
        noted = [json.loads(line) for line in pipe]
    return {
        "code": os.waitstatus_to_exitcode(found[1]),
        "seconds": time.monotonic() - since,
        "memory": found[2].ru_maxrss << 10,
        "hung": hung,
        "events": noted,
    }


if __name__ == "__main__":
    serve(sys.argv[1:])
