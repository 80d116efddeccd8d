"""TensorRT's timing cache as a file: what kernels were timed at, so that later builds are short."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mfnet_export.files import staged
from mfnet_runtime.errors import UsageError


@contextmanager
def timings(config: Any, path: Path | None, tell: Callable[[str], None]) -> Iterator[None]:
    """Give a build configuration the cache in a file; write it back if the block ends well.

    A file that is damaged, or of another GPU or TensorRT, is not used, and replaced.

    Args:
        config: Of the build that takes place inside the block.
        path: None for no file.
        tell: Told of a file that is not used.

    Raises:
        UsageError: no such folder, or the file cannot be read.
        ResourceError: the file cannot be written.
    """
    if path is None:
        yield
        return
    with staged(path) as partial:
        if not _attached(config, _content(path)):
            tell(f"{path.name} is of another GPU or TensorRT, or damaged: timing anew")
            _attached(config, b"")
        yield
        partial.write_bytes(bytes(config.get_timing_cache().serialize()))


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as fault:
        raise UsageError(f"{path}: cannot be read ({fault.strerror})") from fault


def _attached(config: Any, content: bytes) -> bool:
    """Whether TensorRT takes it."""
    cache = config.create_timing_cache(content)
    return cache is not None and bool(config.set_timing_cache(cache, False))
