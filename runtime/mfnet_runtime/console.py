"""Shared by all commands: exit codes, messages, progress, and common options.

Exit codes: 0 done and verified, 1 bug, 2 usage, 3 model refused, 4 some scenes failed and the
rest are valid, 5 out of disk or memory, 130 and 143 interrupted.

Results go to standard output through `say`. Everything else is logged: library modules call
`logging.getLogger(__name__)`, and `run_command` prints what they log on standard error.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial, wraps
from pathlib import Path
from threading import Condition
from types import FrameType
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import click

from mfnet_runtime.errors import NO_MEMORY, MFNetError, ResourceError, UsageError, missing_package
from mfnet_runtime.errors import one_line as one_line
from mfnet_runtime.logs import log_details, log_to_file, log_to_stderr
from mfnet_runtime.progress import progress as progress

F = TypeVar("F", bound=Callable[..., Any])

# What other programs call an option, and what it is called here.
SYNONYMS = {
    "--overlap": ("--stride", "--stride, the window's side less the overlap"),
    "--batch-size": ("--batch", "--batch"),
}
INTERRUPTED, TERMINATED = 130, 143
DEFER = 0.01  # seconds
# Where an exception would leave a lock held for which a thread waits, or released, or be ignored.
_UNSAFE = {
    getattr(kind, name).__code__
    for kind, name in [
        *((Condition, name) for name in ("__enter__", "__exit__", "_acquire_restore")),
        (WeakKeyDictionary(), "_remove"),
    ]
}
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}

logger = logging.getLogger(__name__)


def debug_option(command: F) -> F:
    """Add `--verbose`, `--log-file` and `--debug`; `run_command` acts on them."""
    options = (
        click.option(
            "-v",
            "--verbose",
            is_flag=True,
            expose_value=False,
            callback=lambda context, option, given: log_details() if given else None,
            help="Print more detail.",
        ),
        click.option(
            "--log-file",
            type=click.Path(path_type=Path),
            expose_value=False,
            callback=lambda context, option, path: log_to_file(path) if path else None,
            help="Append all messages to this file, with their times.",
        ),
        click.option(
            "--debug",
            is_flag=True,
            expose_value=False,
            help="Print a Python traceback with any error.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object on standard output."
)
only_option = click.option(
    "--only", multiple=True, metavar="NAME", help="Only the scene of this name; repeatable."
)


def threads_option(default: str) -> Callable[[F], F]:
    """Add `--threads`; `default` describes what happens without it."""
    return click.option(
        "--threads", type=click.IntRange(1, 1024), help=f"CPU threads [default: {default}]."
    )


class GroupedCommand(click.Command):
    """A command whose help lists options under the headings of their groups."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write options without a group first."""
        groups: dict[str, list[tuple[str, str]]] = {"Options": []}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if isinstance(param, click.Option) and record is not None:
                groups.setdefault(getattr(param, "heading", "Options"), []).append(record)
        for heading, records in groups.items():
            with formatter.section(heading):
                formatter.write_dl(records)


def option_group(
    options_type: Callable[..., Any],
    argument: str,
    groups: Mapping[str, Sequence[Callable[..., Any]]],
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Collect options into one argument of a command.

    Args:
        options_type: Dataclass, or function, with a field or argument for every option.
        argument: Name of the command's argument.
        groups: From `click.option`, by the headings in the help of a `GroupedCommand`.
    """
    options = [(heading, option) for heading, group in groups.items() for option in group]

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        names: list[str] = []

        @wraps(command)
        def collect(*args: Any, **given: Any) -> Any:
            own = {name: given.pop(name) for name in names}
            return command(*args, **{argument: options_type(**own)}, **given)

        decorated: Any = collect
        for heading, option in reversed(options):
            decorated = option(decorated)
            param = decorated.__click_params__[-1]
            param.heading = heading
            names.append(param.name)
        return collect

    return add


def parse_bands(text: str) -> tuple[int, int, int]:
    """Convert `"1,2,3"` to (1, 2, 3).

    Raises:
        UsageError: not three whole numbers.
    """
    try:
        first, second, third = (int(part) for part in text.split(","))
    except ValueError:
        raise UsageError(
            f"--bands {text!r}: expected three band numbers, for example 1,2,3"
        ) from None
    return first, second, third


class _Terminated(BaseException):
    """SIGTERM arrived: unwind, so that temporary files are removed."""


def run_command(command: click.Command, args: Sequence[str] | None = None) -> int:
    """Run a click command and return its exit code; every error is one line unless --debug.

    With --json, an error is also printed on standard output, as an object with `error` and
    `exit_code`.

    Args:
        command: Returns an exit code, or None for 0.
        args: Words of the command line; None takes the process's own.
    """
    words = list(sys.argv[1:] if args is None else args)
    failed = partial(_failed, as_json="--json" in words)
    with log_to_stderr(debug="--debug" in words):
        try:
            with _signals_raise():
                code = command.main(
                    words,
                    prog_name=command.name or "mfnet",
                    standalone_mode=False,
                    help_option_names=["-h", "--help"],
                )
        except click.exceptions.Abort:
            return failed("interrupted; no partial output was kept", INTERRUPTED)
        except _Terminated:
            return failed("terminated; no partial output was kept", TERMINATED)
        except click.ClickException as fault:
            shown = _by_synonym(fault) or fault
            shown.show()
            return failed(shown.format_message(), fault.exit_code, log=False)
        except MFNetError as fault:
            return failed(str(fault), fault.exit_code)
        except Exception as fault:
            return failed(*_message_and_code(fault))
    return int(code or 0)


def _by_synonym(fault: click.ClickException) -> click.UsageError | None:
    """Name the option that another program's word stands for."""
    if not isinstance(fault, click.NoSuchOption) or fault.ctx is None:
        return None
    option, remedy = SYNONYMS.get(fault.option_name, ("", ""))
    if option not in (name for param in fault.ctx.command.params for name in param.opts):
        return None
    return click.UsageError(f"No such option {fault.option_name!r}; use {remedy}.", fault.ctx)


def _message_and_code(fault: Exception) -> tuple[str, int]:
    """Describe an error that no part of ours raised."""
    if isinstance(fault, ModuleNotFoundError) and (remedy := missing_package(fault.name)):
        return remedy, MFNetError.exit_code
    if isinstance(fault, MemoryError):
        remedy = "out of memory; use a smaller --batch or a smaller network"
        return remedy, ResourceError.exit_code
    if isinstance(fault, OSError) and fault.errno in _DISK:
        remedy = f"{fault.filename or ''}: {fault.strerror}; check free space and permission"
        return remedy, ResourceError.exit_code
    if library := _missing_library(fault):
        package = library[1] + library[2]
        return f"{fault}; install that library, on Debian or Ubuntu: apt-get install {package}", 2
    if _is_lack_of_memory(fault):
        remedy = f"out of memory ({fault}); free some, or allow the process more"
        return remedy, ResourceError.exit_code
    return f"bug: {type(fault).__name__}: {fault}; run again with --debug and report it", 1


def _failed(message: str, code: int, as_json: bool, log: bool = True) -> int:
    if log:
        logger.error("%s", message, exc_info=True)
    if as_json:
        with suppress(ResourceError):  # standard output may be what failed
            say(json.dumps({"error": one_line(message), "exit_code": code}))
    return code


def _missing_library(fault: Exception) -> re.Match[str] | None:
    """Find name and version of a system library that a package was not installed with."""
    if not isinstance(fault, ImportError):
        return None
    return re.search(r"(lib[\w-]+)\.so\.?(\d*)[\d.]*: cannot open shared object", str(fault))


def _is_lack_of_memory(fault: Exception) -> bool:
    """Recognise threads and shared libraries that failed for lack of memory."""
    return isinstance(fault, ImportError | RuntimeError) and bool(NO_MEMORY.search(str(fault)))


def say(text: str) -> None:
    """Print a result on standard output; it is lost if nobody reads that any more.

    Raises:
        ResourceError: standard output cannot be written, for example a file on a full disk.
    """
    try:
        click.echo(text)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as fault:
        raise ResourceError(
            f"standard output: {fault.strerror}; check free space; outputs in files are complete"
        ) from fault


@contextmanager
def _signals_raise() -> Iterator[None]:
    """Make Ctrl-C and SIGTERM unwind the stack; a second signal ends the process at once."""

    def handle(number: int, frame: FrameType | None) -> None:
        if sys.platform != "win32" and frame is not None and frame.f_code in _UNSAFE:
            signal.signal(signal.SIGALRM, lambda _, later: handle(number, later))
            signal.setitimer(signal.ITIMER_REAL, DEFER)
            return
        for sent in previous:
            signal.signal(sent, signal.SIG_DFL)
        raise _Terminated if number == signal.SIGTERM else KeyboardInterrupt

    previous: dict[signal.Signals, Any] = {}
    try:
        for sent in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(sent) is not signal.SIG_IGN:
                previous[sent] = signal.signal(sent, handle)
    except ValueError:  # not the main thread, whose caller handles signals
        yield
        return
    try:
        yield
    finally:
        if sys.platform != "win32":
            signal.alarm(0)  # of a signal that was deferred
        for sent, handler in previous.items():
            signal.signal(sent, handler)
