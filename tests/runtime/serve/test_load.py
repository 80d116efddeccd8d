"""A real server process under load, with clients that leave, and shut down while it works."""

from __future__ import annotations

import http.client
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from serving import serving
from support import write_scene

pytest.importorskip("fastapi", reason="the extra serve is not installed")

CLIENTS, SECONDS = 50, 120.0
GROWTH = 64 << 20  # bytes, after the first seconds
BOUNDARY = "part"


def form(folder: Path, side: int) -> bytes:
    scene = write_scene(folder, "a", side, side)
    parts = []
    for name, path in (("image", scene.image), ("dsm", scene.dsm)):
        head = f'Content-Disposition: form-data; name="{name}"; filename="{name}.tif"'
        parts.append(f"--{BOUNDARY}\r\n{head}\r\n\r\n".encode() + path.read_bytes() + b"\r\n")
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


class Client:
    """One connection at a time; `with` closes it."""

    def __init__(self, address: str) -> None:
        parts = urlsplit(address)
        assert parts.hostname is not None
        self._connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=60)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *raised: object) -> None:
        self._connection.close()

    def ask(self, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        kind = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
        self._connection.request("POST" if body else "GET", path, body, kind if body else {})
        answer = self._connection.getresponse()
        return answer.status, answer.read()


def ask(address: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
    with Client(address) as client:
        return client.ask(path, body)


def metric(address: str, name: str) -> float:
    lines = ask(address, "/metrics")[1].decode().splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith(f"{name} ")))


def wait_for(address: str, queue: int) -> None:
    end = time.monotonic() + 30
    while metric(address, "mfnet_queue") != queue:
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.slow
def test_many_clients(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    body = form(tmp_path, 64)
    statuses: Counter[int] = Counter()
    times: list[float] = []
    lock = threading.Lock()

    with serving(tmp_path) as (address, server):
        end = time.monotonic() + SECONDS

        def send_until_the_end(seed: int) -> None:
            rng = random.Random(seed)
            with Client(address) as client:
                while time.monotonic() < end:
                    if rng.random() < 0.02:
                        leave(address, body[: len(body) // 2])
                        continue
                    started = time.monotonic()
                    status, content = client.ask("/segment", body)
                    with lock:
                        statuses[status] += 1
                        if status == 200:
                            assert content.startswith(b"II")
                            times.append(time.monotonic() - started)
                    if status == 429:
                        time.sleep(rng.uniform(0.05, 0.5))

        with ThreadPoolExecutor(CLIENTS) as clients:
            sent = [clients.submit(send_until_the_end, seed) for seed in range(CLIENTS)]
            time.sleep(SECONDS / 6)
            memory = [metric(address, "process_resident_memory_bytes")]
        memory.append(metric(address, "process_resident_memory_bytes"))
        faults = [each.exception() for each in sent if each.exception()]
        wait_for(address, queue=0)
    times.sort()
    with capsys.disabled():
        p50, p95 = (times[len(times) * percent // 100] for percent in (50, 95))
        print(f"\n{CLIENTS} clients in {SECONDS:g} s: {dict(statuses)}")
        print(f"p50 {p50:.2f} s, p95 {p95:.2f} s")
        print(f"memory {memory[0] / (1 << 20):.0f} to {memory[1] / (1 << 20):.0f} MiB")
    assert faults == []
    assert set(statuses) == {200, 429}
    assert memory[1] - memory[0] < GROWTH
    assert server.returncode == 0


def leave(address: str, start_of_body: bytes) -> None:
    """Send the start of an upload and close the connection."""
    with begin(address, start_of_body):
        pass


def begin(address: str, start_of_body: bytes) -> socket.socket:
    """Send the start of an upload."""
    parts = urlsplit(address)
    connection = socket.create_connection((parts.hostname, parts.port), timeout=60)
    head = f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\nContent-Length: 999999"
    connection.sendall(f"POST /segment HTTP/1.1\r\nHost: x\r\n{head}\r\n\r\n".encode())
    connection.sendall(start_of_body)
    return connection


def test_client_that_leaves_frees_its_place(tmp_path: Path) -> None:
    body = form(tmp_path, 64)
    with serving(tmp_path, "--queue", "1") as (address, server):
        leave(address, body[:500])
        wait_for(address, queue=0)
        assert ask(address, "/segment", body)[0] == 200
    assert server.returncode == 0


def test_refusals_reach_clients_that_send_before_they_read(tmp_path: Path) -> None:
    body = form(tmp_path, 64)
    large = b"x" * (32 << 20)
    limits = ("--queue", "1", "--max-upload", "40M", "--timeout", "1.5")
    with serving(tmp_path, *limits) as (address, _):
        assert ask(address, "/segment", large)[0] == 400
        assert ask(address, "/segment", large + large)[0] == 413
        with begin(address, body[:500]) as slow:
            wait_for(address, queue=1)
            assert ask(address, "/segment", large)[0] == 429
            assert slow.recv(99).startswith(b"HTTP/1.1 504 ")
        assert ask(address, "/segment", body)[0] == 200


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM")
def test_sigterm_lets_accepted_requests_end(tmp_path: Path) -> None:
    body = form(tmp_path, 400)
    with (
        serving(tmp_path, "--stride", "2") as (address, server),
        ThreadPoolExecutor(1) as pool,
    ):
        accepted = pool.submit(ask, address, "/segment", body)
        wait_for(address, queue=1)
        server.send_signal(signal.SIGTERM)
        time.sleep(0.5)  # the server looks ten times a second
        assert ask(address, "/health")[0] == 503  # on new connections
        assert ask(address, "/segment", body)[0] == 503
        assert not accepted.done()
        assert accepted.result()[0] == 200
        server.wait(timeout=30)
    assert server.returncode == 0


def test_taken_port(tmp_path: Path) -> None:
    with serving(tmp_path) as (address, _):
        port = address.rstrip("/").rpartition(":")[2]
        code = f"import sys; sys.path[:] = {sys.path!r}; from mfnet_runtime.cli.serve import main; "
        call = f"sys.exit(main(['x.onnx', '--backend', 'onnxruntime', '--port', '{port}']))"
        words = [sys.executable, "-c", code + call]
        done = subprocess.run(words, capture_output=True, text=True)
        assert done.returncode == 2
        assert done.stderr.startswith(f"error: --host 127.0.0.1 --port {port}: cannot be opened (")


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_other_machines_are_warned_of(tmp_path: Path, host: str) -> None:
    with serving(tmp_path, "--host", host) as (address, _):
        assert address.startswith(f"http://{host}:")
    assert ("whoever reaches it may upload" in (tmp_path / "log").read_text()) == (
        host == "0.0.0.0"
    )
