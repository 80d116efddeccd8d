"""A server in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support import write_rgbd_model


@contextmanager
def serving(folder: Path, *words: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Run `mfnet-serve` with the model of `write_rgbd_model`; yields its address and process.

    Its messages go to `folder/log`.
    """
    model = write_rgbd_model(folder / "best.onnx")
    fixed = f"--port 0 --backend onnxruntime --threads 1 --log-file {folder}/log".split()
    words = (str(model), *fixed, *words)
    code = f"import sys; sys.path[:] = {sys.path!r}\nfrom mfnet_runtime.cli.serve import main\n"
    with started(sys.executable, "-c", f"{code}sys.exit(main({list(words)!r}))") as running:
        yield running


@contextmanager
def started(*command: str, **options: Any) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Start a command that prints its address; yields this and the process, and ends it."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **options) as server:
        try:
            assert server.stdout is not None
            yield server.stdout.readline().strip(), server
        finally:
            server.terminate()
            try:
                server.wait(timeout=30)
            except subprocess.TimeoutExpired:
                server.kill()
                raise
