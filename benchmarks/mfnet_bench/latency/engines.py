"""Engines in processes of their own: loaded, compared with the reference, ready for their turns."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mfnet_bench.latency.networks import EngineSpec
from mfnet_bench.latency.rounds import DroppedError, Turn

TURN_S = 0.6  # seconds an engine runs in a round; one call at least
MAX_CALLS = 50  # in a turn
SPARE_MB = 1000  # of memory left free, besides one and a half times the largest engine so far
REASON = 300  # characters of a reason that are kept
# Every library that counts threads by itself.
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

Floats = npt.NDArray[np.float32]
logger = logging.getLogger(__name__)


class EngineRefusedError(Exception):
    """An engine does not run what was asked; the text is the reason, on one line."""


class EngineProcess:
    """A child process that has loaded one engine; use it in a `with` block, or `close` it.

    Args:
        spec: What `mfnet_bench.latency.worker` is to load, `threads` among it.
        python: The interpreter that runs it.

    Raises:
        EngineRefusedError: The engine cannot be loaded.
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
            EngineRefusedError: It raised, or the child died.
        """
        return self._exchange({"do": do, **arguments})

    @property
    def alive(self) -> bool:
        """True while the child can answer."""
        return self._child.poll() is None

    def close(self) -> None:
        """End the child at once."""
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
            raise EngineRefusedError(self._reason_of_death())
        answer: dict[str, Any] = json.loads(line)
        if "refused" in answer:
            raise EngineRefusedError(_shorten(answer["refused"]))
        return answer

    def _reason_of_death(self) -> str:
        code = self._child.wait()
        if code == -9:
            return "the process was killed, most likely for want of memory: try a smaller batch"
        self._log.seek(0)
        last = self._log.read().strip().rpartition("\n")[2]
        return _shorten(f"the process ended with code {code}: {last or 'it said nothing'}")

    def __enter__(self) -> EngineProcess:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()


@dataclass(frozen=True)
class Warm:
    """The facts of an engine before the rounds."""

    facts: dict[str, Any]  # device, precision, load_s
    calls: int  # in one turn
    ms: float  # per window, roughly
    peak_rss_mb: float | None  # of its process
    agreement: float  # share of pixels with the reference's class
    logit_difference: float  # the largest, as a share of the range of the reference's logits


class Engines:
    """Opens engines, and keeps what became of each. The first one opened is the reference.

    Args:
        windows: An npz of `image` (n, 3, S, S) and `dsm` (n, 1, S, S); logits go beside it.
        threads: For each engine.
        device: cpu or cuda.
        plan_python: The interpreter for plans.
    """

    def __init__(
        self, windows: Path, threads: int, device: str = "cpu", plan_python: str = sys.executable
    ) -> None:
        self.threads, self.device = threads, device
        self.warm: dict[EngineSpec, Warm] = {}
        self.refused: dict[EngineSpec, str] = {}  # with the reason
        self._windows, self._plan_python = windows, plan_python
        self._logits = windows.with_name("logits.npy")
        self._reference: Floats | None = None

    def open(self, spec: EngineSpec, stack: contextlib.ExitStack) -> dict[EngineSpec, Turn]:
        """Load an engine and warm it up.

        Args:
            spec: The engine.
            stack: Closes its process.

        Returns:
            Its turns; nothing if it is refused.
        """
        logger.info(
            "loading %s in %s %s, batch %d", spec.path.name, spec.backend, spec.asked, spec.batch
        )
        asked = {
            **{name: getattr(spec, name) for name in ("kind", "backend", "batch")},
            "path": str(spec.path),
            "precision": spec.asked,
            "threads": self.threads,
            "device": self.device,
            "windows": str(self._windows),
        }
        python = self._plan_python if spec.path.suffix == ".plan" else sys.executable
        try:
            with contextlib.ExitStack() as opened:
                process = opened.enter_context(EngineProcess(asked, python))
                self.warm[spec] = self._warm_up(process, spec)
                stack.push(opened.pop_all())
        except EngineRefusedError as fault:
            self.refused[spec] = str(fault)
            return {}
        return {spec: self._turn(process, spec)}

    def fits_another(self) -> bool:
        """Return True if memory holds one more engine of the size of the largest so far."""
        free = available_mb()
        largest = max((warm.peak_rss_mb or 0.0 for warm in self.warm.values()), default=0.0)
        return free is None or free > 1.5 * largest + SPARE_MB

    def _warm_up(self, process: EngineProcess, spec: EngineSpec) -> Warm:
        memory = process.ask("logits", out=str(self._logits))
        logits = np.load(self._logits)
        if not np.isfinite(logits).all():
            raise EngineRefusedError("its logits are not finite, so its speed means nothing")
        if self._reference is None:
            self._reference = logits
        same, difference = compare_logits(self._reference, logits)
        (ms,) = process.ask("run", calls=1)["ms"]
        calls = ceil(TURN_S * 1000 / (ms * spec.batch))
        return Warm(
            facts=process.facts,
            calls=min(MAX_CALLS, max(1, calls)),
            ms=ms,
            peak_rss_mb=memory["peak_rss_mb"],
            agreement=same,
            logit_difference=difference,
        )

    def _turn(self, process: EngineProcess, spec: EngineSpec) -> Turn:
        def turn() -> Sequence[float]:
            try:
                times: list[float] = process.ask("run", calls=self.warm[spec].calls)["ms"]
            except EngineRefusedError as fault:
                self.refused[spec] = str(fault)
                raise DroppedError from fault
            return times

        return turn


def compare_logits(reference: Floats, found: Floats) -> tuple[float, float]:
    """Return the share of pixels of equal class, and the largest difference over the range.

    Args:
        reference: (N, classes, row, column).
        found: The same shape.
    """
    same = float(np.mean(reference.argmax(axis=1) == found.argmax(axis=1)))
    span = float(reference.max() - reference.min())
    largest = float(np.abs(found.astype(np.float64) - reference).max())
    return same, largest / span if span else float(largest > 0)


def available_mb() -> float | None:
    """Return the memory to be had without swapping, in MB; None where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    kib = next((line.split()[1] for line in lines if line.startswith("MemAvailable")), None)
    return None if kib is None else int(kib) * 1024 / 1e6


def _shorten(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= REASON else f"{text[: REASON - 3]}..."
