"""Versions of installed packages, for provenance."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

UNKNOWN = "unknown"  # not installed; mfnet itself may run from source


def installed_version(package: str) -> str:
    """Return the version of a package, such as `2.13.0`, or `UNKNOWN`."""
    try:
        return version(package)
    except PackageNotFoundError:
        return UNKNOWN
