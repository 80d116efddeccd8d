"""Starts commands in a fork server, and tells how they ended."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

RUN = "mfnet_runtime.cli.main:main"
EXPORT = "mfnet_export.cli:main"
WATCHDOG = 120.0  # seconds, after which a child is killed


@dataclass(frozen=True)
class Conditions:
    """What a child runs under."""

    limits: tuple[tuple[str, int], ...] = ()  # as ("RLIMIT_FSIZE", bytes)
    plain_user: bool = False  # not as root, if root runs the tests
    stdout: str | None = None  # a file, or "closed pipe"
    niceness: int = 0  # 19 gives way to all others
    at_once: bool = False  # end without Python's tidying up: torch's takes seconds
    watchdog: float = WATCHDOG


@dataclass(frozen=True)
class Ended:
    """How a child ended."""

    code: int  # exit status, or minus the signal
    seconds: float
    memory: int  # bytes, the peak of what was resident
    hung: bool
    out: str
    err: str
    opened: list[str]  # files, by Python
    reached: list[str]  # sockets and processes

    @property
    def errors(self) -> list[str]:
        """Lines of the command that say one; libraries may say more."""
        return re.findall(r"^(?:mfnet-\w+: )?error: .*", self.err, re.MULTILINE)


@dataclass(frozen=True)
class Running:
    """A child."""

    server: ForkServer
    pid: int
    said: Path
    watchdog: float

    def send(self, number: signal.Signals, *, group: bool = False) -> None:
        """A signal to it, or as a terminal does to its group."""
        (os.killpg if group else os.kill)(self.pid, number)

    def wait(self) -> Ended:
        """Until it ends."""
        facts = self.server.ask({"do": "wait", "pid": self.pid, "watchdog": self.watchdog})
        out, err, events = (
            path.read_text(errors="backslashreplace") if path.is_file() else ""
            for path in (self.said / "out", self.said / "err", self.said / "events")
        )
        noted = [json.loads(line) for line in events.splitlines()]
        return Ended(
            **facts,
            out=out,
            err=err,
            opened=[what for event, what in noted if event == "open"],
            reached=[f"{event} {what}" for event, what in noted if event != "open"],
        )


class ForkServer:
    """Enter it to start the process that forks; leave it to end that.

    Args:
        folder: For what children say.
        imports: What takes time to import; entry points as module:function.
    """

    def __init__(self, folder: Path, *imports: str) -> None:
        self._folder, self._imports = folder, imports
        self.home = folder / "home"  # of whoever the children run as

    def __enter__(self) -> ForkServer:
        script = Path(__file__).with_name("fork_server.py")
        # no threads before a fork
        alone = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"), "1")
        self.home.mkdir(exist_ok=True)
        path = os.pathsep.join(part for part in sys.path if part)
        self._process = subprocess.Popen(
            [sys.executable, str(script), *self._imports],
            env={**os.environ, **alone, "PYTHONPATH": path, "HOME": str(self.home)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        ready = self._line()
        assert ready == "ready\n", ready
        return self

    def __exit__(self, *raised: object) -> None:
        self._process.communicate()

    def start(
        self,
        words: Sequence[object],
        folder: Path,
        conditions: Conditions,
        command: str = RUN,
    ) -> Running:
        """A command with its words, in a folder."""
        said = Path(mkdtemp(dir=self._folder))
        facts = self.ask(
            {
                "do": "start",
                "command": command,
                "words": [str(word) for word in words],
                "folder": str(folder),
                "said": str(said),
                "stdout": conditions.stdout,
                "limits": dict(conditions.limits),
                "plain_user": conditions.plain_user,
                "at_once": conditions.at_once,
                "niceness": conditions.niceness,
            }
        )
        return Running(self, facts["pid"], said, conditions.watchdog)

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Send a request, and read its answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._line())
        return answer

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()
