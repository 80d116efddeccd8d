"""Fixtures of the runtime's tests: the tiny model, every installed backend, whole runs."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from faults.runner import RUN, ForkServer
from runs import COMMAND, Spec, digests, run, write_scenes
from support import write_rgbd_model
from undisturbed import Undisturbed

from mfnet_runtime.backends import RUNS


@pytest.fixture(params=RUNS[".onnx", "cpu"])
def name(request: pytest.FixtureRequest) -> str:
    if find_spec(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    return str(request.param)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_rgbd_model(tmp_path / "rgbd.onnx")


@pytest.fixture
def _no_thread_is_left() -> Iterator[None]:
    yield
    assert [thread for thread in threading.enumerate() if thread.name.startswith("mfnet-")] == []


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkServer]:
    """Starts runs that may be killed."""
    with ForkServer(tmp_path_factory.mktemp("said"), COMMAND, RUN) as started:
        yield started


@pytest.fixture(scope="session")
def undisturbed(server: ForkServer, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """Two small scenes, and all outputs that can be made of them."""
    return Undisturbed(server, tmp_path_factory.mktemp("undisturbed"), vectors="fgb")


@pytest.fixture
def spec(tmp_path: Path) -> Spec:
    """A run over two small scenes."""
    return Spec(str(write_scenes(tmp_path / "scenes")), str(tmp_path / "out"))


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Digests of the outputs of `spec`."""
    folder = tmp_path_factory.mktemp("whole")
    run(Spec(str(write_scenes(folder / "scenes")), str(folder / "out")))
    return digests(folder / "out")
