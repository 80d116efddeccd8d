"""An output folder while a run works in it: who else may, what is done there, where pieces go.

Processes that share a run (shards) share the folder; all others are locked out.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Any

from mfnet_runtime.errors import ResourceError, UsageError
from mfnet_runtime.run.locks import locked, waited_for
from mfnet_runtime.run.manifest import FORMAT, Manifest, RunState
from mfnet_runtime.run.shard import ALONE, Shard

WORK = ".mfnet-run"  # in the folder of the outputs, until all are done


@dataclass(frozen=True)
class ResumeOptions:
    """How a run goes together with others, before it and at the same time."""

    resume: bool = False  # go on where the latest run in the folder ended
    restart: bool = False  # begin anew although that one is not finished
    shard: Shard = ALONE
    checkpoint: float = 10.0  # seconds of work that a crash may cost, about

    def __post_init__(self) -> None:
        if self.resume and self.restart:
            raise UsageError("--resume and --restart exclude each other")
        if not self.checkpoint >= 0:
            raise UsageError(f"--checkpoint {self.checkpoint}: expected at least 0 seconds")


class RunFolder:
    """Enter it to work in a folder.

    Args:
        folder: Made where missing.
        settings: Of the run: all that its outputs depend on, besides the scenes' own files.
        options: Whether to go on with an earlier run, and who shares this one.
        scenes: Names of all of the run's.

    Raises:
        UsageError: another process works there, an earlier run there is not finished and it was
            not said what to do with it, or it had other settings.
        ResourceError: the folder cannot be written; also for an `OSError` that leaves it.
    """

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, Any],
        options: ResumeOptions,
        scenes: Sequence[str],
    ) -> None:
        self.folder, self._options, self._scenes = folder, options, scenes
        # who does what of scenes follows from all their names
        names = None if options.shard.alone else sha256(repr(list(scenes)).encode()).hexdigest()
        self._settings = {**settings, "scenes": names}
        self.work = folder / WORK

    def __enter__(self) -> RunFolder:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with ExitStack() as opened:
                self.manifest = Manifest(self.folder)
                opened.callback(self.manifest.close)
                self._lock_others_out(opened)
                opened.callback(self._tidy)
                with self.turn():
                    self._begin(self.manifest.refresh())
                self._opened = opened.pop_all()
        except OSError as fault:
            raise self._failed(fault) from fault
        return self

    @property
    def alone(self) -> bool:
        """No other process works here."""
        return self._options.shard.alone

    def of(self, scene: str) -> Path:
        """The folder of a scene's pieces; made where missing."""
        path = self._pieces / scene
        path.mkdir(parents=True, exist_ok=True)
        return path

    def forget(self, scene: str) -> None:
        """Remove a scene's pieces."""
        shutil.rmtree(self._pieces / scene, ignore_errors=True)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """One process after the other: for what must not be done twice."""
        self.work.mkdir(exist_ok=True)
        with (self.work / "turn.lock").open("wb") as file:
            waited_for(file.fileno())
            yield

    @contextmanager
    def alone_with(self, scene: str) -> Iterator[bool]:
        """Whether no other process finishes the scene."""
        with (self.of(scene) / "finish.lock").open("wb") as file:
            yield locked(file.fileno())

    def end(self) -> None:
        """All that could be done is: nothing but outputs and the manifest stays."""
        with self.turn():
            state = self.manifest.refresh()
            found = [state.scenes.get(scene) for scene in self._scenes]
            if all(one is not None and (one.done or one.failed) for one in found):
                if not (self.alone or locked(self.manifest.handle)):
                    return  # another shard is still at work; the last one comes here
                self.manifest.append("end")
                shutil.rmtree(self.work, ignore_errors=True)

    @property
    def _pieces(self) -> Path:
        return self.work / "scenes"

    def _lock_others_out(self, opened: ExitStack) -> None:
        """The manifest is locked: by one process, or by shards together.

        Raises:
            UsageError: another process holds it.
        """
        shard = self._options.shard
        if not locked(self.manifest.handle, shared=not shard.alone):
            raise UsageError(
                f"{self.folder}: another mfnet-run works in it; wait for it, or choose another "
                "folder with -o"
            )
        if not shard.alone:
            self.work.mkdir(exist_ok=True)
            name = f"shard-{shard.index}-of-{shard.count}.lock"
            if not locked(opened.enter_context((self.work / name).open("wb")).fileno()):
                raise UsageError(f"{self.folder}: shard {shard} runs already; choose another")

    def _begin(self, state: RunState) -> None:
        """Go on with the latest run, or begin one.

        Raises:
            UsageError: the latest run is not finished, or had other settings.
        """
        options = self._options
        joins = (options.resume or not self.alone) and not options.restart
        if not joins and not options.restart and state.unfinished:
            done = sum(one.done is not None for one in state.scenes.values())
            raise UsageError(
                f"{self.folder}: a run there is not finished ({done} scenes done); add --resume to "
                "go on with it, or --restart to begin anew"
            )
        differing = self._differing(state)
        if state.settings is None or (state.ended and differing and not options.resume):
            joins = False
        if joins and differing:
            raise UsageError(f"{self.folder}: {differing}; choose as then, or add --restart")
        if joins:
            self.manifest.append("resumed", shard=str(options.shard))
            return
        # Shards that only wait for their turn to begin are no reason; an upgrade, for this moment.
        if not self.alone and not state.ended and not locked(self.manifest.handle):
            raise UsageError(f"{self.folder}: other shards of another run work in it; wait")
        shutil.rmtree(self._pieces, ignore_errors=True)
        self.manifest.append(
            "run",
            format=FORMAT,
            settings=self._settings,
            shards=options.shard.count,
            scenes=len(self._scenes),
        )
        if not self.alone:
            locked(self.manifest.handle, shared=True)

    def _differing(self, state: RunState) -> str | None:
        """The first setting that is not as it was; None where all are."""
        if state.settings is None:
            return None
        shards = self._options.shard.count
        if shards > 1 and state.shards != shards:
            return f"the run there has {state.shards} shards, not {shards}"
        for name in {**state.settings, **self._settings}:
            then, now = (found.get(name) for found in (state.settings, self._settings))
            if then != now and not (name == "scenes" and self.alone):
                return f"{name} was {_short(then)} in the run there, and is {_short(now)} now"
        return None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._opened.close()
        if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):
            raise self._failed(error) from error

    def _failed(self, fault: OSError) -> ResourceError:
        return ResourceError(
            f"{self.folder}: cannot be made or written ({fault.strerror or fault}); check free "
            "space and write permission, or choose another folder with -o"
        )

    def _tidy(self) -> None:
        if self.alone and not self.manifest.state.unfinished:  # nothing to go on from
            shutil.rmtree(self.work, ignore_errors=True)


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
