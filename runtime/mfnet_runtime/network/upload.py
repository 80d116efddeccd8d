"""Uploads of finished files to a bucket of S3."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from mfnet_runtime.errors import SceneError, UsageError
from mfnet_runtime.files import FileDigest
from mfnet_runtime.network.access import Access, NetworkError, origin_of
from mfnet_runtime.network.client import Client, signed
from mfnet_runtime.network.file import RemoteError
from mfnet_runtime.network.url import Url

LARGEST = 5 << 30  # bytes that S3 takes in one request


class Bucket:
    """The folder in a bucket that finished files go to.

    Args:
        folder: `s3://BUCKET/PREFIX`.
        hosts: That may be used, see `Access`; the bucket is one of them.

    Raises:
        UsageError: It is no such folder, the bucket is not allowed, or there are no credentials.
        ModuleNotFoundError: The extra `network` is not installed.
    """

    def __init__(self, folder: str, hosts: Sequence[str]) -> None:
        self._folder, self._access = folder.rstrip("/"), Access(hosts)
        if not re.fullmatch(r"s3://[^/?#]+(/[^?#]*)?", folder):
            raise UsageError(f"--upload {folder!r}: expected s3://BUCKET/PREFIX")
        url = Url(f"{self._folder}/x")
        try:
            self._access.addresses(origin_of(signed(url)), urlsplit(url.text).netloc)
        except (NetworkError, OSError) as fault:
            raise UsageError(f"--upload {folder}: {fault}") from fault

    def addresses(self, paths: Sequence[Path]) -> list[str]:
        """Return where files go.

        Raises:
            SceneError: A name cannot be part of an address.
        """
        for path in paths:
            if not path.name.isprintable() or re.search("[?#]", path.name):
                raise SceneError(
                    f"{str(path)!r}: its name cannot be part of an address; rename the scene"
                )
        return [f"{self._folder}/{path.name}" for path in paths]

    def upload(self, paths: Sequence[Path], files: Mapping[str, FileDigest]) -> list[str]:
        """Store files, the first one last: if it is new, all are.

        Args:
            paths: Of the files.
            files: Digests of all their bytes, by name.

        Returns:
            Their addresses.

        Raises:
            RemoteError: One cannot be stored.
        """
        addresses = self.addresses(paths)
        for path, address in reversed(list(zip(paths, addresses, strict=True))):
            if (size := files[path.name].size) > LARGEST:
                raise RemoteError(
                    f"{path}: has {size / (1 << 30):.1f} GiB, and S3 takes 5 in one request; use "
                    "--resume without --upload, and aws s3 cp"
                )
            try:
                Client(Url(address), self._access).put(path, files[path.name])
            except NetworkError as fault:
                raise RemoteError(
                    f"{address}: cannot be uploaded, {fault}; the files are in {path.parent}, and "
                    "--resume uploads them"
                ) from fault
        return addresses
