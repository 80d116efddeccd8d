"""Runs over small scenes, in this process or as a command, that fail at a given call.

The scenes have holes, and a run makes many small blocks of them.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib import import_module
from pathlib import Path
from threading import Lock
from types import ModuleType, SimpleNamespace
from typing import Any

import click
import numpy as np
import pytest
import rasterio
from place_backend import PlaceBackend
from support import write_scene

from mfnet_runtime.console import run_command
from mfnet_runtime.files import sha256_from_file
from mfnet_runtime.run import plan
from mfnet_runtime.run.executors.base import LOCAL, Executor
from mfnet_runtime.run.manifest import FILE as MANIFEST
from mfnet_runtime.run.manifest import Manifest
from mfnet_runtime.run.options import NO_VECTORS, ResumeOptions, VectorOptions
from mfnet_runtime.run.segment import SceneOutcome, segment_scenes
from mfnet_runtime.run.task import Receipt
from mfnet_runtime.scene.discovery import scenes_from
from mfnet_runtime.scene.options import ReadOptions
from mfnet_runtime.tiling.pipeline import SegmentOptions

STUCK = 20.0  # seconds
SIZES = ((48, 100), (20, 25))  # rows and columns of scenes
import_module("pyogrio.raw")  # once, before any fork
COMMAND = "runs:main"


@dataclass(frozen=True)
class Fault:
    """What happens at a call of a function."""

    target: str  # module:name, module:class.name, or module:os.name as that module sees it
    call: int  # which one, from 1
    # Killed "before", "after" or "half" way through a write; "stuck"; the name of an errno; or of a
    # signal to the process, or to its group: "SIGINT to all".
    kind: str
    lasting: bool = False  # every later call fails too


@dataclass(frozen=True)
class Spec:
    """Everything a run depends on, as plain JSON types."""

    scenes: str
    out: str
    resume: bool = False
    restart: bool = False
    rows: int = 16  # of a block
    options: dict[str, Any] = field(default_factory=dict)  # fields of SegmentOptions that differ
    read: dict[str, Any] = field(default_factory=dict)  # of ReadOptions
    layers: bool = True  # confidence and probabilities
    vectors: str | None = None
    tags: dict[str, str] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)  # fields of PlaceBackend that differ
    dsm_band: int | None = None
    fault: Fault | None = None
    count: tuple[str, ...] = ()  # functions whose calls are counted and printed

    def words(self) -> list[str]:
        """Return the command line."""
        return [json.dumps(asdict(self))]

    def again(self, **changes: Any) -> Spec:
        """Return the run that continues this one, without a fault."""
        return replace(self, **{"resume": True, "fault": None, **changes})


def main(words: list[str]) -> int:
    """Run a spec as a command; returns the exit code."""
    spec = Spec(**json.loads(words[0]))

    @click.command("mfnet-run")
    def command() -> int:
        outcomes = run(spec)
        click.echo(json.dumps([outcome.row for outcome in outcomes]))
        return 4 if any(outcome.failed for outcome in outcomes) else 0

    calls: Counter[str] = Counter()
    for target in spec.count:
        wrap(target, lambda name, sound: counted(calls, name, sound))
    if spec.fault:
        fault = Fault(**spec.fault)  # type: ignore[arg-type]
        wrap(fault.target, lambda name, sound: faulty(fault, sound))
    try:
        return run_command(command, [])
    finally:
        if spec.count:
            print(json.dumps(calls), file=sys.stderr)


def run(spec: Spec, executor: Executor = LOCAL) -> list[SceneOutcome]:
    """Run a spec; planned, recorded and finished in this process."""
    options = {"stride": 16, "block": 48, **spec.options}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "block_height", lambda grid: spec.rows)
        return segment_scenes(
            PlaceBackend(**spec.model),
            scenes_from(Path(spec.scenes), dsm_band=spec.dsm_band),
            Path(spec.out),
            SegmentOptions(**options, confidence=spec.layers, probabilities=spec.layers),
            ReadOptions(**spec.read),
            VectorOptions(spec.vectors, sieve=9) if spec.vectors else NO_VECTORS,  # type: ignore[arg-type]
            resume=ResumeOptions(spec.resume, spec.restart),
            tags=spec.tags,
            quiet=True,
            executor=executor,
        )


def interrupt(spec: Spec, blocks: int = 3) -> Spec:
    """Run until some blocks are recorded; returns the run that continues it."""
    recorded, record = 0, Manifest.record

    def counting(manifest: Manifest, receipt: Receipt) -> None:
        nonlocal recorded
        record(manifest, receipt)
        recorded += 1
        if recorded == blocks:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Manifest, "record", counting)
        with pytest.raises(KeyboardInterrupt):
            run(spec)
    assert len(records(spec, "block")) >= blocks
    return spec.again()


def records(spec: Spec, kind: str) -> list[dict[str, Any]]:
    lines = (Path(spec.out) / MANIFEST).read_text().splitlines()
    return [found for found in map(json.loads, lines) if found["record"] == kind]


def wrap(target: str, wrapped: Callable[[str, Callable[..., Any]], Callable[..., Any]]) -> None:
    """Wrap a function."""
    module, _, name = target.partition(":")
    holder: Any = import_module(module)
    *classes, last = name.split(".")
    for part in classes:
        inner = getattr(holder, part)
        if isinstance(inner, ModuleType):  # as this module alone sees it
            inner = SimpleNamespace(**vars(inner))
            setattr(holder, part, inner)
        holder = inner
    setattr(holder, last, wrapped(target, getattr(holder, last)))


def counted(calls: Counter[str], name: str, sound: Callable[..., Any]) -> Callable[..., Any]:
    def counting(*words: Any, **named: Any) -> Any:
        calls[name] += 1
        return sound(*words, **named)

    return counting


def faulty(fault: Fault, sound: Callable[..., Any]) -> Callable[..., Any]:
    calls, lock = 0, Lock()

    def calling(*words: Any, **named: Any) -> Any:
        nonlocal calls
        with lock:
            calls += 1
            here = calls == fault.call or (fault.lasting and calls > fault.call)
        if not here:
            return sound(*words, **named)
        return happens(fault.kind, sound, *words, **named)

    return calling


def happens(kind: str, sound: Callable[..., Any], *words: Any, **named: Any) -> Any:
    """Do what a fault says, instead of a call or besides it."""
    if kind.startswith("SIG"):
        send = os.killpg if kind.endswith("to all") else os.kill
        send(os.getpid(), getattr(signal, kind.split()[0]))
        return sound(*words, **named)
    if kind == "stuck":
        time.sleep(STUCK)
        return sound(*words, **named)
    if kind in dir(errno):
        number = getattr(errno, kind)
        raise OSError(number, os.strerror(number))
    if kind == "half":
        handle, line = words
        sound(handle, line[: len(line) // 2])
    elif kind == "after":
        sound(*words, **named)
    return os.kill(os.getpid(), signal.SIGKILL)


def write_scenes(folder: Path, sizes: Sequence[tuple[int, int]] = SIZES) -> Path:
    """Write scenes a, b, c... of those sizes, with pixels that hold no height."""
    for index, (height, width) in enumerate(sizes):
        scene = write_scene(folder, "abcdefghijklmnopqrstuvwxyz"[index], height, width, seed=index)
        with rasterio.open(scene.dsm, "r+") as dsm:
            heights = dsm.read(1)
            heights[height // 3 : height // 2, width // 2 :] = np.nan
            dsm.write(heights, 1)
    return folder


def digests(out: Path) -> dict[str, str]:
    """Return the SHA-256 of every file in a folder except the manifest."""
    return {
        str(path.relative_to(out)): sha256_from_file(path)
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.name != MANIFEST
    }
