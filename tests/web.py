"""A web server that misbehaves as the first part of a path tells it."""

from __future__ import annotations

import re
import ssl
import threading
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

EXPIRED = b"<?xml?><Error><Code>AccessDenied</Code><Message>Request has\nexpired</Message></Error>"


class Web(ThreadingHTTPServer):
    """Serves files of a folder under `/KIND/NAME`."""

    daemon_threads = True

    def __init__(self, folder: Path, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder, self.asked = folder, list[str]()
        self.kind: str | None = None  # in place of that of the path
        self.stored = dict[str, bytes]()
        self.to, self.tag = "", "1"  # of redirects; of the files
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_side=True)
        self.host = f"127.0.0.1:{self.server_port}"
        self.origin = f"http://{self.host}"

    def handle_error(self, *_: Any) -> None:
        """Say nothing of clients that hang up."""

    @contextmanager
    def running(self) -> Iterator[Web]:
        """Serve meanwhile."""
        threading.Thread(target=lambda: self.serve_forever(0.01), daemon=True).start()
        try:
            yield self
        finally:
            self.shutdown()
            self.server_close()


class Handler(BaseHTTPRequestHandler):
    """Answers a request for a range of a file."""

    protocol_version = "HTTP/1.1"
    server: Web

    def answer(
        self,
        status: int,
        content: bytes,
        headers: dict[str, str] | None = None,
        size: int | None = None,
    ) -> None:
        self.send_response(status)
        for name, value in {"ETag": f'"{self.server.tag}"', **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content) if size is None else size))
        self.end_headers()
        self.wfile.write(content)

    def do_GET(self) -> None:
        server = self.server
        _, kind, name = urlsplit(self.path).path.split("/", 2)
        kind = server.kind or kind
        server.asked.append(self.path)
        count, path = len(server.asked), server.folder / name
        if kind in ("redirect", "loop"):
            return self.answer(
                302, b"", {"Location": server.to if kind == "redirect" else self.path}
            )
        if kind == "html":
            path = server.folder / "page.html"
        if kind in ("403", "500", "503") or (kind == "flaky" and count <= 2):
            return self.answer(int(kind) if kind != "flaky" else 503, EXPIRED)
        if not path.is_file():
            return self.answer(404, b"no")
        data = path.read_bytes()
        if kind == "norange" or "Range" not in self.headers:
            return self.answer(200, data)
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers["Range"])
        assert found is not None
        start, stop = int(found[1]), min(int(found[2]) + 1, len(data))
        size, content = len(data), data[start:stop]
        later = start > 0
        if start >= size:
            return self.answer(416, b"", {"Content-Range": f"bytes */{size}"})
        if kind == "dies" and later:
            return self.answer(500, b"")
        if kind == "hangup" and later:
            self.close_connection = True
            return None
        if kind == "stall" and later:
            time.sleep(1)
            self.close_connection = True
            return None
        if kind == "larger":
            size += 1000
        if kind == "unknown":
            return self.answer(206, content, {"Content-Range": f"bytes {start}-{stop - 1}/*"})
        if kind == "shifted" and later:
            start += 1
        told = {"Content-Range": f"bytes {start}-{stop - 1}/{size}"}
        if kind == "changing" and later:
            told["ETag"] = '"2"'
        if kind == "cut" and later:
            self.answer(206, content[:-100], told, len(content))
            self.close_connection = True
        elif kind == "short" and later:
            self.answer(206, content[:-100], told)
        elif kind == "long" and later:
            self.answer(206, content + bytes(100), told)
        elif kind == "drip" and later:
            self.answer(206, b"", told, len(content))
            for byte in content[:100]:
                self.wfile.write(bytes([byte]))
                time.sleep(0.02)
        else:
            self.answer(206, content, told)
        return None

    def do_PUT(self) -> None:
        """Store a file as S3 does; a bucket is a kind."""
        server = self.server
        _, kind, name = urlsplit(self.path).path.split("/", 2)
        kind = server.kind or kind
        server.asked.append(self.path)
        if kind == "stall":
            time.sleep(0.5)
            self.close_connection = True
            return None
        data = bytearray(self.rfile.read(int(self.headers["Content-Length"])))
        if kind in ("403", "503") or (kind == "flaky" and len(server.asked) <= 2):
            return self.answer(int(kind) if kind != "flaky" else 503, EXPIRED)
        data[-1] ^= kind == "damaged"
        digest = sha256(data).digest()
        if b64encode(digest).decode() != self.headers["x-amz-checksum-sha256"]:
            return self.answer(400, b"<Code>BadDigest</Code><Message>other bytes</Message>")
        server.stored[name] = bytes(data[: -1 if kind == "short" else None])
        return self.answer(200, b"")

    def do_HEAD(self) -> None:
        """Answer for a file that was stored."""
        _, _, name = urlsplit(self.path).path.split("/", 2)
        self.answer(200, b"", size=len(self.server.stored[name]))

    def log_message(self, *_: object) -> None:
        """Say nothing."""
