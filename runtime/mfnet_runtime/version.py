"""Which version of a package is installed, for files and tables that say what made them."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

UNKNOWN = "unknown"  # it is not installed; ours may run from its source


def installed_version(package: str) -> str:
    """As `2.13.0`, or `UNKNOWN`."""
    try:
        return version(package)
    except PackageNotFoundError:
        return UNKNOWN
