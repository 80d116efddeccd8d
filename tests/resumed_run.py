"""A run over small scenes as a command, ended or failed at a call told: for `faults.fork_server`.

Three scenes with holes, in blocks of columns, and a piece for every row of windows: much happens.
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
import rasterio
from place_backend import PlaceBackend
from support import write_scene

from mfnet_runtime.console import run_command
from mfnet_runtime.contract import DsmRule
from mfnet_runtime.files import sha256_from_file
from mfnet_runtime.raster.limits import DEFAULT_LIMITS
from mfnet_runtime.raster.polygons import VectorOptions
from mfnet_runtime.run.manifest import FILE as MANIFEST
from mfnet_runtime.run.segment import segment_scenes
from mfnet_runtime.run.shard import ALONE, shard_from_text
from mfnet_runtime.run.workdir import ResumeOptions
from mfnet_runtime.scene.aoi import area_from_box
from mfnet_runtime.scene.discovery import scenes_from
from mfnet_runtime.scene.options import ReadOptions
from mfnet_runtime.tiling.pipeline import SegmentOptions

STUCK = 20.0  # seconds
import_module("pyogrio.raw")  # once, before any fork
COMMAND = "resumed_run:main"


@dataclass(frozen=True)
class Fault:
    """What happens at a call of a function."""

    target: str  # module:name, module:class.name, or module:os.name as that module sees it
    call: int  # which one, from 1
    # Killed "before", "after" or "half" of what it writes; "stuck"; the name of an errno; or of a
    # signal that it gets, or its group too: "SIGINT to all".
    kind: str
    lasting: bool = False  # every later call fails too


@dataclass(frozen=True)
class Told:
    """All that a run is told, as plain JSON types."""

    scenes: str
    out: str
    resume: bool = False
    restart: bool = False
    shard: str | None = None
    checkpoint: float = 0.0  # seconds
    walk: dict[str, Any] = field(default_factory=dict)  # fields of SegmentOptions that differ
    read: dict[str, Any] = field(default_factory=dict)  # of ReadOptions
    layers: bool = True  # confidence and probabilities
    vectors: str | None = None
    tags: dict[str, str] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)  # fields of PlaceBackend that differ
    dsm_band: int | None = None
    fault: Fault | None = None
    count: tuple[str, ...] = ()  # functions whose calls are printed

    def words(self) -> list[str]:
        """Of the command line."""
        return [json.dumps(asdict(self))]

    def again(self, **changes: Any) -> Told:
        """Go on, all well."""
        return replace(self, **{"resume": True, "fault": None, **changes})


def main(words: list[str]) -> int:
    """Entry point; returns the exit code."""
    told = Told(**json.loads(words[0]))

    @click.command("mfnet-run")
    def command() -> int:
        outcomes = run(told)
        click.echo(json.dumps([outcome.row for outcome in outcomes]))
        return 4 if any(outcome.failed for outcome in outcomes) else 0

    calls: Counter[str] = Counter()
    for target in told.count:
        wrap(target, lambda name, sound: counted(calls, name, sound))
    if told.fault:
        fault = Fault(**told.fault)  # type: ignore[arg-type]
        wrap(fault.target, lambda name, sound: faulty(fault, sound))
    try:
        return run_command(command, [])
    finally:
        if told.count:
            print(json.dumps(calls), file=sys.stderr)


def run(told: Told) -> Any:
    """As `mfnet-run` does."""
    backend = PlaceBackend(**told.model)
    walk = {"stride": 16, "block": 48, **told.walk}
    if "dsm" in walk:
        walk["dsm"] = DsmRule(*walk["dsm"])
    shard = shard_from_text(told.shard) if told.shard else ALONE
    return segment_scenes(
        backend,
        scenes_from(Path(told.scenes), dsm_band=told.dsm_band),
        Path(told.out),
        SegmentOptions(**walk, confidence=told.layers, probabilities=told.layers),
        read_options(**told.read),
        VectorOptions(told.vectors, sieve=9) if told.vectors else None,  # type: ignore[arg-type]
        resume=ResumeOptions(told.resume, told.restart, shard, told.checkpoint),
        tags=told.tags,
        quiet=True,
    )


def read_options(
    box: Sequence[float] | None = None, max_pixels: int | None = None, **given: Any
) -> ReadOptions:
    """As plain types say."""
    areas = (area_from_box(*box),) if box else ()
    limits = replace(DEFAULT_LIMITS, max_pixels=max_pixels) if max_pixels else DEFAULT_LIMITS
    return ReadOptions(**given, areas=areas, limits=limits)


def wrap(target: str, wrapped: Callable[[str, Callable[..., Any]], Callable[..., Any]]) -> None:
    """Put something around a function."""
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
    """A fault, instead of a call or besides it."""
    if kind.startswith("SIG"):
        (os.killpg if kind.endswith("to all") else os.kill)(
            os.getpid(), getattr(signal, kind.split()[0])
        )
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


def write_scenes(
    folder: Path, sizes: Sequence[tuple[int, int]] = ((70, 110), (90, 75), (20, 25))
) -> Path:
    """Scenes a, b, c... of those sizes, with pixels that hold no height."""
    for index, (height, width) in enumerate(sizes):
        scene = write_scene(folder, "abcdefghijklmnopqrstuvwxyz"[index], height, width, seed=index)
        with rasterio.open(scene.dsm, "r+") as dsm:
            heights = dsm.read(1)
            heights[height // 3 : height // 2, width // 2 :] = np.nan
            dsm.write(heights, 1)
    return folder


def digests(out: Path) -> dict[str, str]:
    """SHA-256 of everything in a folder, its manifest aside."""
    return {
        str(path.relative_to(out)): sha256_from_file(path)
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.name != MANIFEST
    }
