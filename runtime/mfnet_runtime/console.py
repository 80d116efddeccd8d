"""What all commands share: exit codes, one-line errors, progress, and common options.

Exit codes: 0 done and verified, 1 bug, 2 usage, 3 model refused, 4 some scenes failed and the
rest are valid, 5 out of disk or memory, 130 and 143 interrupted.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any, TypeVar

import click

from mfnet_runtime.errors import MFNetError, ResourceError, UsageError, missing_package

F = TypeVar("F", bound=Callable[..., Any])

INTERRUPTED, TERMINATED = 130, 143
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}

debug_option = click.option(
    "--debug", is_flag=True, help="Show a Python traceback with any error.", expose_value=False
)
json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object on standard output."
)


def threads_option(unset: str) -> Callable[[F], F]:
    """Threads of whatever computes; `unset` says what it does by itself."""
    return click.option(
        "--threads", type=click.IntRange(1, 1024), help=f"CPU threads [default: {unset}]."
    )


class GroupedCommand(click.Command):
    """A command whose help lists options under the headings of their groups."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Those of no group first."""
        groups: dict[str, list[tuple[str, str]]] = {"Options": []}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if isinstance(param, click.Option) and record is not None:
                groups.setdefault(getattr(param, "heading", "Options"), []).append(record)
        for heading, records in groups.items():
            with formatter.section(heading):
                formatter.write_dl(records)


def option_group(
    words: type[Any], options: Sequence[Callable[..., Any]], argument: str, heading: str
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Options that a command gets as one argument.

    Args:
        words: Dataclass with a field for each.
        options: As click makes them.
        argument: Its name.
        heading: Above them in the help of a `GroupedCommand`.
    """

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(command)
        def collected(*args: Any, **given: Any) -> Any:
            own = {name: given.pop(name) for name in words.__dataclass_fields__}
            return command(*args, **{argument: words(**own)}, **given)

        for option in reversed(options):
            collected = option(collected)
        for made in collected.__click_params__[-len(options) :]:  # type: ignore[attr-defined]
            made.heading = heading
        return collected

    return add


only_option = click.option(
    "--only", multiple=True, metavar="NAME", help="Only the scene of this name; repeatable."
)


def parse_bands(text: str) -> tuple[int, int, int]:
    """`"1,2,3"` to (1, 2, 3).

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
    """SIGTERM arrived: unwind, so that temporary files go."""


def run_command(command: click.Command, args: Sequence[str] | None = None) -> int:
    """Run a click command and return its exit code; every error is one line unless --debug.

    Args:
        command: Returns an exit code, or None for 0.
        args: Words of the command line; None takes the process's own.
    """
    words = list(sys.argv[1:] if args is None else args)
    debug = "--debug" in words
    name = command.name or "mfnet"
    try:
        with _signals_raise():
            code = command.main(words, prog_name=name, standalone_mode=False)
    except click.exceptions.Abort:
        return _failed(name, "interrupted; nothing half-written has a name", INTERRUPTED, debug)
    except _Terminated:
        return _failed(name, "terminated; nothing half-written has a name", TERMINATED, debug)
    except click.ClickException as fault:
        fault.show()
        return fault.exit_code
    except MFNetError as fault:
        return _failed(name, str(fault), fault.exit_code, debug)
    except ModuleNotFoundError as fault:
        remedy = missing_package(fault.name)
        if remedy is None:
            return _bug(name, fault, debug)
        return _failed(name, remedy, MFNetError.exit_code, debug)
    except MemoryError:
        remedy = "out of memory; use a smaller --batch or a smaller network"
        return _failed(name, remedy, ResourceError.exit_code, debug)
    except OSError as fault:
        if fault.errno not in _DISK:
            return _bug(name, fault, debug)
        remedy = f"{fault.filename or ''}: {fault.strerror}; check free space and permission"
        return _failed(name, remedy, ResourceError.exit_code, debug)
    except Exception as fault:  # whatever else comes is our bug
        if _is_lack_of_memory(fault):
            remedy = f"out of memory ({fault}); free some, or allow the process more"
            return _failed(name, remedy, ResourceError.exit_code, debug)
        return _bug(name, fault, debug)
    return int(code or 0)


def say(text: str) -> None:
    """A result, on standard output; if nobody reads it any more, it and all later ones are lost.

    Raises:
        ResourceError: standard output is a file on a full disk, say.
    """
    try:
        click.echo(text)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as fault:
        raise ResourceError(
            f"standard output: {fault.strerror}; check free space; outputs in files are there"
        ) from fault


@contextmanager
def progress(total: int, label: str, quiet: bool = False) -> Iterator[Any]:
    """A bar with ETA on a terminal's standard error; silent elsewhere. Yields `tick(done)`."""
    hidden = quiet or not sys.stderr.isatty()
    with click.progressbar(
        length=total,
        label=label,
        file=sys.stderr,
        hidden=hidden,
        show_eta=True,
        show_pos=True,
        item_show_func=lambda note: note or "",
    ) as bar:
        yield lambda done, note=None: bar.update(done, note)


def complain(message: str) -> None:
    """An error that does not end the command, on standard error."""
    click.echo(f"error: {one_line(message)}", err=True)


def one_line(text: str) -> str:
    """No line breaks and no control characters, whatever a library or a file's name put into it."""
    return "".join(char if char.isprintable() else "?" for char in " ".join(text.split()))


def _failed(name: str, message: str, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    click.echo(f"{name}: error: {one_line(message)}", err=True)
    return code


def _bug(name: str, fault: BaseException, debug: bool) -> int:
    kind = type(fault).__name__
    return _failed(name, f"bug: {kind}: {fault}; run again with --debug and report it", 1, debug)


def _is_lack_of_memory(fault: Exception) -> bool:
    """Neither threads nor libraries that cannot be had raise a MemoryError."""
    from mfnet_runtime.errors import NO_MEMORY

    return isinstance(fault, ImportError | RuntimeError) and bool(NO_MEMORY.search(str(fault)))


@contextmanager
def _signals_raise() -> Iterator[None]:
    """Ctrl-C and SIGTERM unwind, so that temporary files go; a second one ends it all at once."""

    def raised(number: int, frame: object) -> None:
        for sent in previous:
            signal.signal(sent, signal.SIG_DFL)
        raise _Terminated if number == signal.SIGTERM else KeyboardInterrupt

    previous: dict[signal.Signals, Any] = {}
    try:
        for sent in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(sent) is not signal.SIG_IGN:
                previous[sent] = signal.signal(sent, raised)
    except ValueError:  # not the main thread: whoever runs us there handles signals
        yield
        return
    try:
        yield
    finally:
        for sent, handler in previous.items():
            signal.signal(sent, handler)
