"""Exit codes, messages and progress of commands."""

from __future__ import annotations

import errno
import logging
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest
from support import results_in, write_rgbd_model, write_scene

from mfnet_runtime import console
from mfnet_runtime.console import debug_option, run_command
from mfnet_runtime.errors import MFNetError, ModelError, ResourceError, SceneError, UsageError

Capture = pytest.CaptureFixture[str]


def ends_with(fault: BaseException, *words: str) -> int:
    """Return the exit code of a command that raises `fault`."""

    @click.command("mfnet-test")
    @click.option("--debug", is_flag=True)
    def command(debug: bool) -> None:
        raise fault

    return run_command(command, list(words))


@pytest.mark.parametrize(
    ("fault", "code", "text"),
    [
        (UsageError("no such folder"), 2, "no such folder"),
        (ModelError("damaged"), 3, "damaged"),
        (SceneError("unreadable"), 4, "unreadable"),
        (ResourceError("disk full"), 5, "disk full"),
        (MemoryError(), 5, "smaller --batch"),
        (OSError(errno.ENOSPC, "No space left on device", "a.tif"), 5, "a.tif: No space left"),
        (OSError(errno.EACCES, "Permission denied", "out"), 5, "out: Permission denied"),
        (RuntimeError("can't start new thread"), 5, "out of memory (can't start new thread); free"),
        (ImportError("a.so: failed to map segment from shared object"), 5, "out of memory (a.so"),
        (
            ImportError("libexpat.so.1: cannot open shared object file: No such file"),
            2,
            "No such file; install that library, on Debian or Ubuntu: apt-get install libexpat1",
        ),
        (RuntimeError("no such thing"), 1, "bug: RuntimeError"),
        (OSError(errno.EBADF, "Bad file descriptor"), 1, "bug: OSError"),
        (SceneError("a\x1b[2J\x07.tif: gone"), 4, "a?[2J?.tif: gone"),
        (ValueError("two\nlines"), 1, "bug: ValueError: two lines; run again with --debug"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (click.BadParameter("not a number"), 2, "not a number"),
    ],
)
def test_one_line_and_the_code(fault: BaseException, code: int, text: str, capsys: Capture) -> None:
    assert ends_with(fault) == code
    err = capsys.readouterr().err
    assert text in err
    assert "Traceback" not in err
    if not isinstance(fault, click.ClickException):  # click adds the usage
        assert len(err.strip().splitlines()) == 1


def test_debug_shows_the_traceback(capsys: Capture) -> None:
    assert ends_with(ModelError("damaged"), "--debug") == 3
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert "error: damaged" in err


@click.command("mfnet-test")
@debug_option
def talkative() -> None:
    logging.getLogger("mfnet_runtime.scene").debug("details")
    logging.getLogger("mfnet_runtime.scene").info("two\nlines")
    logging.getLogger("mfnet").warning("odd")
    logging.getLogger("mfnet_export").error("one scene failed")
    logging.getLogger("rasterio").warning("GDAL talks to itself")
    raise SceneError("damaged")


def test_messages(tmp_path: Path, capsys: Capture) -> None:
    lines = ["two lines", "warning: odd", "error: one scene failed", "error: damaged"]
    assert run_command(talkative, []) == 4
    assert capsys.readouterr().err.splitlines() == lines
    log = tmp_path / "log"
    assert run_command(talkative, ["-v", "--log-file", str(log)]) == 4
    assert capsys.readouterr().err.splitlines() == ["details", *lines]
    logged = log.read_text()
    for part in ("INFO mfnet_runtime.scene: two", "WARNING rasterio", "details", "Traceback"):
        assert part in logged
    assert run_command(talkative, []) == 4
    assert log.read_text() == logged, "it is not written to any more"
    assert run_command(talkative, ["--log-file", str(tmp_path / "absent" / "log")]) == 2
    assert "absent/log: cannot be written (No such file or directory)" in capsys.readouterr().err


@pytest.mark.parametrize("quiet", [False, True])
def test_progress_without_a_terminal(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, quiet: bool
) -> None:
    @click.command("mfnet-test")
    def command() -> None:
        with console.progress(8, "town (1/2)", quiet) as tick:
            tick(2)
            tick(4, "loss 0.5")
            tick(3, None, 12)

    monkeypatch.setattr("mfnet_runtime.progress.LOG_SECONDS", 0)
    assert run_command(command, []) == 0
    err = capsys.readouterr().err
    assert quiet == (err == "")
    if not quiet:
        assert re.search(r"^town \(1/2\): 75%, .*/s, 0:00 min left, loss 0.5$", err, re.MULTILINE)
        assert re.search(r"^town \(1/2\): 75%, .*/s, 0:00 min left$", err, re.MULTILINE), "9 of 12"


def test_every_fault_has_a_documented_code() -> None:
    codes = {kind: kind.exit_code for kind in MFNetError.__subclasses__()}
    assert set(codes.values()) <= {2, 3, 4, 5}


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_runs_leave_nothing_half_written(
    tmp_path: Path, sent: signal.Signals, code: int
) -> None:
    model = write_rgbd_model(tmp_path / "rgbd.onnx")
    write_scene(tmp_path / "scenes", height=400, width=400)
    out = tmp_path / "out"
    words = [str(model), str(tmp_path / "scenes"), "-o", str(out), "--stride", "1"]
    call = f"import sys; sys.path[:] = {sys.path!r}; from mfnet_runtime.cli.main import main; "
    process = subprocess.Popen(
        [sys.executable, "-c", call + f"sys.exit(main({words!r}))"],
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 30
    while not list(out.rglob(".*.tif")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(sent)
    _, err = process.communicate(timeout=30)
    assert process.returncode == code
    assert "no partial output was kept" in err
    assert "Traceback" not in err
    assert results_in(out) == []


HOLDS = """
import signal, sys
from functools import partial
from threading import Condition
from types import SimpleNamespace
import click
from mfnet_runtime.console import run_command

@click.command()
def command():
    lock = SimpleNamespace(
        acquire=None,
        release=None,
        __enter__=partial(signal.raise_signal, signal.SIGTERM),
        __exit__=lambda *_: print("released"),
    )
    with Condition(lock):
        print("acquired")
        signal.pause()

sys.exit(run_command(command, []))
"""


def test_a_signal_while_a_lock_is_taken_lets_it_be_released() -> None:
    """Threads that wait for it would otherwise never end."""
    call = f"import sys; sys.path[:] = {sys.path!r}{HOLDS}"
    done = subprocess.run([sys.executable, "-c", call], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout) == (143, "acquired\nreleased\n")
