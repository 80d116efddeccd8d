"""`mfnet-serve`: options in, a server until it is told to stop."""

from __future__ import annotations

import ipaddress
import logging
import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mfnet_runtime.cli.run_options import EngineOptions, engine_options, window_options
from mfnet_runtime.console import GroupedCommand, debug_option, option_group, run_command, say
from mfnet_runtime.errors import UsageError
from mfnet_runtime.serve.options import MAX_PIXELS, ServeOptions
from mfnet_runtime.tiling.options import SegmentOptions

if TYPE_CHECKING:
    from fastapi import FastAPI

LAST_BYTES_S = 10  # for connections that still read when the last request is done

logger = logging.getLogger(__name__)


def _bytes(context: Any, option: click.Option, text: str) -> int:
    from mfnet_runtime.tiling.memory import bytes_from_text

    return bytes_from_text(text, option.opts[0])


def _options(stride: int | None, blend: Any, quality: Any, **limits: Any) -> ServeOptions:
    segment = SegmentOptions(stride=stride, blend=blend, quality=quality)
    return ServeOptions(segment=segment, **limits)


serve_options = option_group(
    _options,
    "options",
    {
        "Limits": [
            click.option(
                "--queue",
                type=click.IntRange(1, 1000),
                default=8,
                show_default=True,
                help="Requests accepted at a time: one runs, the others upload or wait. More get "
                "status 429.",
            ),
            click.option(
                "--timeout",
                type=click.FloatRange(0, min_open=True),
                default=300.0,
                show_default=True,
                metavar="SECONDS",
                help="Time of a request, upload and waiting included; then status 504.",
            ),
            click.option(
                "--max-upload",
                default="1G",
                show_default=True,
                metavar="SIZE",
                callback=_bytes,
                help="Refuse larger requests with status 413.",
            ),
            click.option(
                "--max-pixels",
                type=click.IntRange(min=1),
                default=MAX_PIXELS,
                show_default=True,
                help="Refuse larger rasters.",
            ),
        ],
        "Windows": window_options,
    },
)


@click.command("mfnet-serve", cls=GroupedCommand)
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen on; 0.0.0.0 lets other machines in, without a password.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8000,
    show_default=True,
    help="Port to listen on; 0 takes a free one.",
)
@serve_options
@engine_options
@debug_option
@click.version_option(package_name="mfnet")
def command(
    model: Path, host: str, port: int, options: ServeOptions, engine: EngineOptions
) -> None:
    """Serve MODEL over HTTP: a web page, POST /segment for GeoTIFFs, and KServe v2 for arrays.

    The page at / takes an image and its DSM and shows the classes; /docs describes the routes.
    SIGTERM or Ctrl-C lets the requests that are running end.

    \b
    Examples:
      mfnet-serve best.onnx
      mfnet-serve best.onnx --port 8080 --queue 4 --timeout 60
    """
    from mfnet_runtime.run.model import load
    from mfnet_runtime.serve.app import create_app

    with _listen(host, port) as listener:
        name = next(iter(engine.times_of(model)), engine.backend)
        with load(
            model,
            name,
            engine.device,
            threads=engine.threads or 0,
            precision=engine.precision,
            trust_plan=engine.trust_plan,
        ) as loaded:
            logger.info("%s on %s", model.name, loaded.device)
            _serve(create_app(loaded, options), listener)


def _listen(host: str, port: int) -> socket.socket:
    """Claim the port before the model is loaded; connections are refused until it is.

    Raises:
        UsageError: The port cannot be opened.
    """
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    if os.name == "posix":  # elsewhere this would share a port that is in use
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        return listener
    except OSError as fault:
        listener.close()
        raise UsageError(
            f"--host {host} --port {port}: cannot be opened ({fault.strerror}); choose another port"
        ) from fault


def _serve(app: FastAPI, listener: socket.socket) -> None:
    """Answer requests until a signal comes and the accepted ones are done."""
    import uvicorn

    intake = app.state.intake

    class Server(uvicorn.Server):
        """Refuses new requests after a signal, and ends when the accepted ones are answered."""

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            say(address)

        def handle_exit(self, sig: int, frame: Any) -> None:
            if intake.draining:
                super().handle_exit(sig, frame)  # the second signal ends it at once
            intake.draining = True

        async def on_tick(self, counter: int) -> bool:
            self.should_exit |= intake.draining and not intake.taken
            return await super().on_tick(counter)

    host, port = listener.getsockname()[:2]
    if not ipaddress.ip_address(host).is_loopback:
        logger.warning(
            "%s is reached from other machines: whoever reaches it may upload; there is no "
            "password and no encryption; put a proxy with both in front of it",
            host,
        )
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}/"
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=LAST_BYTES_S,
    )
    Server(config).run(sockets=[listener])
    logger.info("stopped; every accepted request was answered")


def main(args: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run_command(command, args)
