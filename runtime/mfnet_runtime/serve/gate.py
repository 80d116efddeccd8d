"""ASGI middleware: which requests are let in, how long they may take, and their metrics."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field

import anyio
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mfnet_runtime.serve.metrics import Metrics
from mfnet_runtime.serve.options import ServeOptions

COUNTED = ("/segment",)  # by name although refused; any path would be a metric of its own
RETRY_AFTER = {"Retry-After": "5"}

logger = logging.getLogger(__name__)


@dataclass
class Intake:
    """Requests that were accepted and not yet answered."""

    options: ServeOptions
    taken: int = 0
    draining: bool = False  # nothing more is accepted
    metrics: Metrics = field(init=False)

    def __post_init__(self) -> None:
        self.metrics = Metrics(lambda: self.taken)

    def refusal(self, scope: Scope) -> JSONResponse | None:
        """Return the answer to a request that must not come in."""
        options = self.options
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if self.draining:
            return error_response(503, "the service is shutting down", RETRY_AFTER)
        if self.taken >= options.queue:
            return error_response(
                429, f"{self.taken} requests are waiting (--queue); try again later", RETRY_AFTER
            )
        if declared.isdigit() and int(declared) > options.max_upload:
            return error_response(413, too_large(options.max_upload))
        return None


class Gate:
    """Admits POST requests up to a number, a size and a time; counts all requests.

    A request holds its place from its head to the end of its answer, or until its client has gone.
    """

    def __init__(self, app: ASGIApp, intake: Intake) -> None:
        self._app, self._intake = app, intake

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        exchange = _Exchange(receive, send, self._intake.options.max_upload)
        try:
            if scope["method"] == "POST":
                await self._admit(scope, exchange)
            else:
                await self._app(scope, receive, exchange.send)
        finally:
            seconds = time.perf_counter() - started
            unrouted = scope["path"] if scope["path"] in COUNTED else "other"
            route = str(getattr(scope.get("route"), "path", unrouted))
            status = "gone" if exchange.gone else str(exchange.status or 500)
            self._intake.metrics.count(route, status, seconds)
            if scope["method"] == "POST":
                logger.info("POST %s: %s in %.2f s", scope["path"], status, seconds)

    async def _admit(self, scope: Scope, exchange: _Exchange) -> None:
        intake = self._intake
        refusal = intake.refusal(scope)
        if refusal is not None:
            await refusal(scope, exchange.receive, exchange.send)
            return
        intake.taken += 1
        try:
            with anyio.move_on_after(intake.options.timeout) as limit:
                await self._until_gone(scope, exchange)
            if limit.cancelled_caught and exchange.status is None:
                seconds = f"{intake.options.timeout:g} s"
                text = f"not done within {seconds} (--timeout); send a smaller scene, or try later"
                await error_response(504, text)(scope, exchange.receive, exchange.send)
        finally:
            intake.taken -= 1

    async def _until_gone(self, scope: Scope, exchange: _Exchange) -> None:
        """Answer a request; stop when its client goes away."""
        async with anyio.create_task_group() as group:

            async def watch() -> None:
                await exchange.wait_until_gone()
                group.cancel_scope.cancel()

            group.start_soon(watch)
            await self._app(scope, exchange.receive, exchange.send)
            group.cancel_scope.cancel()


class _Exchange:
    """The two channels of a request, watched.

    Attributes:
        status: Of the answer, once it has begun.
        gone: The client closed the connection before its answer was complete.
    """

    def __init__(self, receive: Receive, send: Send, max_body: int) -> None:
        self._receive, self._send, self._max_body = receive, send, max_body
        self._body_read, self._received, self._answered = anyio.Event(), 0, False
        self.status: int | None = None
        self.gone = False

    async def receive(self) -> Message:
        """Return the next piece of the body; after the last, wait for ever.

        Raises:
            HTTPException: The body is too large.
        """
        if self._body_read.is_set():
            await anyio.sleep_forever()
        message = await self._next()
        self._received += len(message.get("body", b""))
        if self._received > self._max_body:
            raise HTTPException(413, too_large(self._max_body))
        return message

    async def wait_until_gone(self) -> None:
        """Return when the client closes the connection after sending its body."""
        await self._body_read.wait()
        while (await self._next())["type"] != "http.disconnect":
            pass

    async def send(self, message: Message) -> None:
        """Pass a part of the answer on."""
        if message["type"] == "http.response.start":
            self.status = int(message["status"])
        elif not message.get("more_body"):
            self._answered = True
        await self._send(message)

    async def _next(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self.gone = not self._answered
        if not message.get("more_body"):
            self._body_read.set()
        return message


def error_response(status: int, text: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """Return an error in the form of all answers of the service, which is that of KServe."""
    return JSONResponse({"error": text}, status, headers)


def too_large(limit: int) -> str:
    """Return the sentence for a body that is too large."""
    return f"the request is larger than {limit >> 20} MiB (--max-upload); send a smaller scene"
