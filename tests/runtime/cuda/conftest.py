"""What tests of the GPU's side run on: a fake that fails on all that real PyCUDA would punish."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fakes.fake_pycuda import FakePycuda


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakePycuda]:
    fake = FakePycuda().install(monkeypatch)
    yield fake
    fake.check()
