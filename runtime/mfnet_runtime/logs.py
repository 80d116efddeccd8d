"""Logging of commands: one line a message on standard error, and everything in a log file."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mfnet_runtime.errors import UsageError, one_line

PACKAGES = ("mfnet", "mfnet_runtime", "mfnet_export", "mfnet_bench")


class _LineFormatter(logging.Formatter):
    """One line a message, with its level if it is a warning or an error."""

    def __init__(self, debug: bool) -> None:
        super().__init__()
        self._debug = debug

    def format(self, record: logging.LogRecord) -> str:
        text = one_line(record.getMessage())
        if record.levelno >= logging.WARNING:
            text = f"{'error' if record.levelno >= logging.ERROR else 'warning'}: {text}"
        if self._debug and record.exc_info:
            text = f"{self.formatException(record.exc_info)}\n{text}"
        return text


@contextmanager
def log_to_stderr(debug: bool) -> Iterator[None]:
    """Print what our packages log on standard error."""
    console, root = logging.StreamHandler(), logging.getLogger()
    console.setLevel(logging.INFO)
    console.addFilter(lambda record: record.name.partition(".")[0] in PACKAGES)
    console.setFormatter(_LineFormatter(debug))
    handlers, level = root.handlers[:], root.level
    root.addHandler(console)
    root.setLevel(logging.INFO)
    for package in PACKAGES:
        logging.getLogger(package).setLevel(logging.DEBUG)
    try:
        yield
    finally:
        for handler in root.handlers[:]:
            if handler not in handlers:
                root.removeHandler(handler)
                handler.close()
        root.setLevel(level)


def log_details() -> None:
    """Print debug messages too."""
    for handler in logging.getLogger().handlers:
        handler.setLevel(logging.DEBUG)


def log_to_file(path: Path) -> None:
    """Append all messages to a file, with their times and tracebacks, until the command ends.

    Raises:
        UsageError: it cannot be written.
    """
    try:
        handler = logging.FileHandler(path, encoding="utf-8")
    except OSError as fault:
        raise UsageError(f"--log-file {path}: cannot be written ({fault.strerror})") from fault
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.getLogger().addHandler(handler)
