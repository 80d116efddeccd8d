"""Progress of long work: a bar on a terminal, a line every 30 seconds elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

logger = logging.getLogger(__name__)

LOG_SECONDS = 30.0  # between lines


@contextmanager
def progress(total: int, label: str, quiet: bool = False) -> Iterator[Callable[..., None]]:
    """Show a bar, or log a line every 30 s without a terminal; yields `tick(done, note, total)`."""
    if quiet or not sys.stderr.isatty():
        yield _log_progress(total, label) if not quiet else lambda done, note=None, total=None: None
        return
    with click.progressbar(
        length=total,
        label=label,
        file=sys.stderr,
        show_eta=True,
        show_pos=True,
        item_show_func=lambda note: note or "",
    ) as bar:

        def tick(done: int, note: str | None = None, total: int | None = None) -> None:
            bar.length = total or bar.length
            bar.update(done, note)

        yield tick


def _log_progress(total: int, label: str) -> Callable[..., None]:
    started = logged = time.monotonic()
    count = 0

    def tick(done: int, note: str | None = None, new_total: int | None = None) -> None:
        nonlocal count, logged, total
        count, now, total = count + done, time.monotonic(), new_total or total
        if now - logged < LOG_SECONDS or not count:
            return
        logged, rate = now, count / (now - started)
        minutes, seconds = divmod(round((total - count) / rate), 60)
        parts = f"{count / total:.0%}, {rate:.1f}/s, {minutes}:{seconds:02} min left"
        logger.info("%s: %s%s", label, parts, f", {note}" if note else "")

    return tick
