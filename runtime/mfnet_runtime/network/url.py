"""The address of a file on the network, which stands where a path can."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from mfnet_runtime.errors import UsageError

SCHEMES = ("https", "http", "s3")


@dataclass(frozen=True, repr=False)
class Url:
    """An `https://`, `http://` or `s3://` address of a file.

    Messages, logs and manifests show it without its query, which may hold a signature.

    Raises:
        UsageError: It names no file, or holds a password.
    """

    text: str

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.text)
            host, _ = parts.hostname, parts.port  # the latter raises ValueError
        except ValueError as fault:
            raise UsageError(f"{self.text[:200]!r}: is no valid address ({fault})") from None
        if parts.scheme not in SCHEMES or not host or not self.text.isprintable():
            raise UsageError(f"{self}: expected https://HOST/FILE or s3://BUCKET/KEY")
        if "@" in parts.netloc:
            raise UsageError(f"{self}: leave the password out; use a signed link")
        if self.name in ("", ".", ".."):
            raise UsageError(f"{self}: is a folder; give the address of a file")

    @property
    def scheme(self) -> str:
        """One of `SCHEMES`."""
        return urlsplit(self.text).scheme

    @property
    def name(self) -> str:
        """The last part of the path, fit to name a file."""
        return re.sub(r"[/\\]", "_", unquote(urlsplit(self.text).path.rpartition("/")[2]))

    @property
    def stem(self) -> str:
        """The name without its suffix."""
        return PurePosixPath(self.name).stem

    @property
    def suffix(self) -> str:
        """The suffix of the name, with its dot."""
        return PurePosixPath(self.name).suffix

    def absolute(self) -> Url:
        """Return itself, as `Path.absolute` does."""
        return self

    def __str__(self) -> str:
        parts = urlsplit(self.text)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"

    __repr__ = __str__


RasterPath = Path | Url


def raster_path(text: str | RasterPath) -> RasterPath:
    """Return the address or path that a text names.

    Raises:
        UsageError: It is a malformed address.
    """
    if isinstance(text, str):
        return Url(text) if text.partition("://")[0].lower() in SCHEMES else Path(text)
    return text
