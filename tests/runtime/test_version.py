"""Versions of packages that may not be installed."""

from __future__ import annotations

from importlib.metadata import version

from mfnet_runtime.version import UNKNOWN, installed_version


def test_the_version_is_that_of_the_installed_package() -> None:
    assert installed_version("numpy") == version("numpy")


def test_a_package_that_is_not_installed_has_none() -> None:
    assert installed_version("mfnet-of-a-clone") == UNKNOWN
