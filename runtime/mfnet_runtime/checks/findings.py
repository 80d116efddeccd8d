"""Findings: one sentence each about a scene or a run, how serious it is, and what to do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Literal

from mfnet_runtime.console import one_line
from mfnet_runtime.errors import MFNetError, SceneError

Level = Literal["ok", "note", "warning", "refused"]
LEVELS: tuple[Level, ...] = ("ok", "note", "warning", "refused")  # from harmless to serious
Said = Iterator[tuple[Level, str]]  # what a rule yields: sentences with their remedies


@dataclass(frozen=True)
class Finding:
    """One sentence about a scene or about the whole run.

    A note needs no action; a warning means that a run would finish, but that its classes may be
    wrong.
    """

    level: Level
    about: str  # "image", "dsm", "grid", "area", "output", "model" or "run"
    text: str
    exit_code: int = 0  # of a run that is refused because of it

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return asdict(self)


class Findings:
    """All findings on a scene or a run in the order they were added, equal texts only once."""

    def __init__(self) -> None:
        self.all: list[Finding] = []

    def add(self, about: str, said: Iterable[tuple[Level, str]], exit_code: int = 0) -> None:
        """Add sentences that are not there yet."""
        for level, text in said:
            if all(text != known.text for known in self.all):
                self.all.append(Finding(level, about, text, exit_code))

    @contextmanager
    def refusals(self, about: str) -> Iterator[None]:
        """Turn an error that would end a run into a finding."""
        try:
            yield
        except MFNetError as error:
            self.add(about, [("refused", one_line(str(error)))], error.exit_code)

    def refused(self, *about: str) -> bool:
        """Return whether any of these parts is refused."""
        return any(one.level == "refused" and one.about in about for one in self.all)


def worst(findings: Iterable[Finding]) -> Level:
    """Return the most serious level."""
    return max((finding.level for finding in findings), key=LEVELS.index, default="ok")


def exit_code_of(findings: Iterable[Finding]) -> int:
    """Return the exit code of a run: errors of the run come before those of single scenes."""
    codes = [finding.exit_code for finding in findings if finding.exit_code]
    return next((code for code in codes if code != SceneError.exit_code), max(codes, default=0))
