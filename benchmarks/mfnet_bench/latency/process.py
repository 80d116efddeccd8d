"""An engine in a child process, as its parent sees it. Knows the pipe and no engines."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from typing import Any

REASON = 300  # characters of a reason that are kept
# Every library that counts threads by itself.
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class EngineRefusedError(Exception):
    """An engine does not run what was asked; its text is the reason, one line."""


class EngineProcess:
    """A child that has loaded one engine; leaving it ends the child.

    Args:
        spec: What `mfnet_bench.latency.worker` is to load; `threads` among it.
        python: The interpreter that runs it.

    Raises:
        EngineRefusedError: it cannot be loaded.
    """

    def __init__(self, spec: dict[str, Any], python: str = sys.executable) -> None:
        self._log = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        self._child = subprocess.Popen(
            [python, "-m", "mfnet_bench.latency.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            encoding="utf-8",
            env={**os.environ, **dict.fromkeys(THREADS, str(spec["threads"]))},
        )
        try:
            self.facts = self._exchange(spec)
        except BaseException:
            self.close()
            raise

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Have the engine do something and wait for its answer.

        Raises:
            EngineRefusedError: it raised, or the child died of it.
        """
        return self._exchange({"do": do, **arguments})

    @property
    def alive(self) -> bool:
        """Whether the child still answers."""
        return self._child.poll() is None

    def close(self) -> None:
        """End the child, at once."""
        self._child.kill()  # it holds nothing that must be written
        with contextlib.suppress(OSError):
            self._child.communicate()
        self._log.close()

    def _exchange(self, message: dict[str, Any]) -> dict[str, Any]:
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        line = ""
        with contextlib.suppress(BrokenPipeError):
            self._child.stdin.write(json.dumps(message) + "\n")
            self._child.stdin.flush()
            line = self._child.stdout.readline()
        if not line:
            raise EngineRefusedError(self._epitaph())
        answer: dict[str, Any] = json.loads(line)
        if "refused" in answer:
            raise EngineRefusedError(_shortened(answer["refused"]))
        return answer

    def _epitaph(self) -> str:
        code = self._child.wait()
        if code == -9:
            return "the process was killed, most likely for want of memory: try a smaller batch"
        self._log.seek(0)
        last = self._log.read().strip().rpartition("\n")[2]
        return _shortened(f"the process ended with code {code}: {last or 'it said nothing'}")

    def __enter__(self) -> EngineProcess:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()


def _shortened(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= REASON else f"{text[: REASON - 3]}..."
