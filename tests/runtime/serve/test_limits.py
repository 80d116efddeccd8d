"""Queue, time limit, shutting down and clients that leave, with a model that runs until told."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anyio
import pytest
from support import write_rgbd_model, write_scene

import mfnet_runtime as mf

pytest.importorskip("fastapi", reason="the extra serve is not installed")
from fastapi import FastAPI
from fastapi.testclient import TestClient

from mfnet_runtime.serve.app import create_app
from mfnet_runtime.serve.options import ServeOptions


class SlowModel(mf.Model):
    """Waits before each scene for `go`, and calls `tick` meanwhile, as between batches."""

    go: threading.Event
    running = 0

    def segment(self, *words: Any, **named: Any) -> dict[str, Any]:
        self.running += 1
        try:
            while not self.go.wait(0.01):
                named["tick"](1)
            return super().segment(*words, **named)
        finally:
            self.running -= 1


@pytest.fixture
def model(tmp_path: Path) -> Iterator[SlowModel]:
    path = write_rgbd_model(tmp_path / "best.onnx")
    model = SlowModel(path, "onnxruntime", "auto", threads=1)
    model.go = threading.Event()
    with model:
        yield model
        model.go.set()


@pytest.fixture
def parts(tmp_path: Path) -> dict[str, bytes]:
    scene = write_scene(tmp_path)
    return {"image": scene.image.read_bytes(), "dsm": scene.dsm.read_bytes()}


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


class Crowd:
    """Clients that send a scene at the same time."""

    def __init__(self, app: FastAPI, model: SlowModel, parts: dict[str, bytes]) -> None:
        self.app, self.model, self.parts = app, model, parts

    def __enter__(self) -> Crowd:
        self.client = TestClient(self.app).__enter__()
        self.pool = ThreadPoolExecutor(8)
        return self

    def __exit__(self, *raised: object) -> None:
        self.model.go.set()
        self.pool.shutdown()
        self.client.__exit__(None, None, None)

    def send(self) -> Future[Any]:
        return self.pool.submit(self.client.post, "/segment", files=self.parts)


def test_full_queue_and_shutting_down(model: SlowModel, parts: dict[str, bytes]) -> None:
    app = create_app(model, ServeOptions(queue=2))
    intake = app.state.intake
    with Crowd(app, model, parts) as crowd:
        accepted = [crowd.send(), crowd.send()]
        until(lambda: intake.taken == 2)
        refused = crowd.send().result()
        assert refused.status_code == 429
        assert refused.json()["error"].startswith("2 requests are waiting (--queue)")
        assert refused.headers["retry-after"]
        assert crowd.client.get("/health").status_code == 200  # not counted

        intake.draining = True
        assert crowd.send().result().status_code == 503
        assert crowd.client.get("/health").status_code == 503
        model.go.set()
        assert [each.result().status_code for each in accepted] == [200, 200]
        lines = crowd.client.get("/metrics").text
        assert 'mfnet_requests_total{route="/segment",status="429"} 1.0' in lines
        assert intake.taken == 0


def test_time_limit_stops_the_work(model: SlowModel, parts: dict[str, bytes]) -> None:
    app = create_app(model, ServeOptions(timeout=0.3))
    with Crowd(app, model, parts) as crowd:
        running, waiting = crowd.send(), crowd.send()
        for each in (running, waiting):
            assert each.result().status_code == 504
            assert each.result().json()["error"].startswith("not done within 0.3 s (--timeout)")
        until(lambda: model.running == 0)
        model.go.set()
        assert crowd.send().result().status_code == 200


@pytest.mark.parametrize("uploading", [True, False])
def test_client_that_leaves_frees_its_place(
    model: SlowModel,
    parts: dict[str, bytes],
    uploading: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = create_app(model, ServeOptions(queue=1))
    intake = app.state.intake
    body = TestClient(app).build_request("POST", "/segment", files=parts)
    content = body.read()
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/segment",
        "query_string": b"",
        "headers": [(b"content-type", body.headers["content-type"].encode())],
        "app": app,
    }

    async def main() -> None:
        left = anyio.Event()
        messages = [{"type": "http.request", "body": content[:900], "more_body": True}]
        if not uploading:
            messages.append({"type": "http.request", "body": content[900:], "more_body": False})

        async def receive() -> dict[str, Any]:
            if messages:
                return messages.pop(0)
            await left.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            pass

        with anyio.fail_after(10):
            async with anyio.create_task_group() as group:
                group.start_soon(app, scope, receive, send)
                while not (intake.taken and (uploading or model.running)):
                    await anyio.sleep(0.01)
                left.set()
        assert intake.taken == 0

    anyio.run(main)
    assert "bug" not in caplog.text
    until(lambda: model.running == 0)
    model.go.set()
    with TestClient(app) as client:
        assert client.post("/segment", files=parts).status_code == 200
        lines = client.get("/metrics").text
    assert 'mfnet_requests_total{route="/segment",status="gone"} 1.0' in lines


def test_a_bug_is_not_shown(model: SlowModel, parts: dict[str, bytes], tmp_path: Path) -> None:
    model.go.set()
    app = create_app(model)
    with TestClient(app, raise_server_exceptions=False) as client:
        model.close()
        model.path = tmp_path / "secret" / "gone.onnx"
        answer = client.post("/segment", files=parts)
    assert answer.status_code == 500
    assert "secret" not in answer.text
