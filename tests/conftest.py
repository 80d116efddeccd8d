"""Settings of the whole suite."""

from __future__ import annotations

import os
import signal

import pytest
from hypothesis import settings

# The same examples in every run, however busy the machine: a red test is a fault of the code.
settings.register_profile("steady", deadline=None, derandomize=True)
settings.load_profile("steady")

# Tests run in as many processes as there are cores: more threads in each only get in the way.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Whoever starts the suite in the background has it ignore these signals, and so do its children.
for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, usual)


@pytest.fixture(scope="session", autouse=True)
def _own_cache_folder(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep the user's cache folder out of the tests."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))
