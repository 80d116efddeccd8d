"""What an examination of data finds: one sentence each, how bad it is, and what to do.

Knows no rasters.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Literal

from mfnet_runtime.console import one_line
from mfnet_runtime.errors import MFNetError, SceneError

Level = Literal["ok", "note", "warning", "refused"]
LEVELS: tuple[Level, ...] = ("ok", "note", "warning", "refused")  # ever worse


@dataclass(frozen=True)
class Finding:
    """One sentence about a scene, or about the whole run."""

    level: Level
    about: str  # "image", "dsm", "grid", "area", "output", "work", "model" or "run"
    text: str  # with the remedy
    exit_code: int = 0  # that a run would end with because of it

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types only."""
        return asdict(self)


class Findings:
    """All of a scene or a run, in the order they were made."""

    def __init__(self) -> None:
        self.made: list[Finding] = []

    def ok(self, about: str, text: str) -> None:
        """As it should be."""
        self.made.append(Finding("ok", about, text))

    def note(self, about: str, text: str) -> None:
        """Good to know; nothing needs to be done."""
        self.made.append(Finding("note", about, text))

    def warning(self, about: str, text: str) -> None:
        """A run would end well, its classes might be wrong. The same text is kept only once."""
        if not self.told(text):
            self.made.append(Finding("warning", about, text))

    @contextmanager
    def refusals(self, about: str) -> Iterator[None]:
        """Whatever a run would refuse for in here becomes a finding, the same text only once."""
        try:
            yield
        except MFNetError as fault:
            if not self.told(str(fault)):
                text = one_line(str(fault))
                self.made.append(Finding("refused", about, text, fault.exit_code))

    def told(self, text: str) -> bool:
        """Whether a finding says that."""
        return any(finding.text == one_line(text) for finding in self.made)

    def refused(self, *about: str) -> bool:
        """Whether anything is, or anything about these."""
        return any(
            finding.level == "refused" and (not about or finding.about in about)
            for finding in self.made
        )


def worst(findings: Iterable[Finding]) -> Level:
    """The verdict on all of them."""
    return max((finding.level for finding in findings), key=LEVELS.index, default="ok")


def exit_code_of(findings: Iterable[Finding]) -> int:
    """What a run would end with: a fault of the run before those of its scenes."""
    codes = [finding.exit_code for finding in findings if finding.exit_code]
    whole = [code for code in codes if code != SceneError.exit_code]
    return next(iter(whole or codes), 0)
