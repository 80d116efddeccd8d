"""Settings of the whole suite."""

from __future__ import annotations

from hypothesis import settings

# The same examples in every run, however busy the machine: a red test is a fault of the code.
settings.register_profile("steady", deadline=None, derandomize=True)
settings.load_profile("steady")
