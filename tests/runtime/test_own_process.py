"""Functions called in a process of their own: how they fail is told, and they end when told to."""

from __future__ import annotations

import time

import pytest

from mfnet_runtime.own_process import call_apart

EVAL = ("builtins", "eval")


def test_what_went_wrong_is_raised_again() -> None:
    call_apart(*EVAL, "1 + 1")
    with pytest.raises(OSError, match=r"^division by zero$"):
        call_apart(*EVAL, "1 / 0")


def test_what_it_prints_is_not_ours(capfd: pytest.CaptureFixture[str]) -> None:
    call_apart(*EVAL, "print('hello')")
    assert capfd.readouterr().out == ""


def test_a_crash_is_told_by_its_signal() -> None:
    crash = "print('well', file=__import__('sys').stderr), __import__('signal').raise_signal(11)"
    with pytest.raises(OSError, match=r"^ended by signal 11, Segmentation fault$"):
        call_apart(*EVAL, crash)


def test_work_without_end_is_ended() -> None:
    started = time.monotonic()
    with pytest.raises(OSError, match=r"^not done after 0\.5 s$"):
        call_apart("signal", "pause", seconds=0.5)
    assert time.monotonic() - started < 10


def test_memory_is_limited() -> None:
    call_apart(*EVAL, "len(bytearray(1 << 29))")
    with pytest.raises(OSError, match=r"^MemoryError$"):
        call_apart(*EVAL, "len(bytearray(1 << 29))", memory=1 << 29)
