"""Settings of the whole suite."""

from __future__ import annotations

import signal

from hypothesis import settings

# The same examples in every run, however busy the machine: a red test is a fault of the code.
settings.register_profile("steady", deadline=None, derandomize=True)
settings.load_profile("steady")

# Whoever starts the suite in the background has it ignore Ctrl-C, and so do its children.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
