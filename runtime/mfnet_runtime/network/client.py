"""Requests to read or store a file: redirects within the list, retries, and answers checked."""

from __future__ import annotations

import os
import random
import re
import time
from base64 import b64encode
from collections.abc import Iterator, Mapping
from functools import cache
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

from mfnet_runtime.errors import one_line
from mfnet_runtime.files import FileDigest
from mfnet_runtime.network.access import Access, NetworkError, Origin, origin_of
from mfnet_runtime.network.url import Url

WAITS = (0.5, 1.0, 2.0, 4.0)  # seconds between attempts, each changed by up to a half
CONNECT, SILENCE = 10.0, 30.0  # seconds until a server must accept, and send something
SLOWEST = 50_000  # bytes a second, below which an answer is given up
REDIRECTS = 5
MESSAGE = 4096  # bytes of an answer that is not a file
UNTRUSTED = re.compile("certificate|doesn't match")
OPERATIONS = {"GET": "get_object", "HEAD": "head_object", "PUT": "put_object"}  # of S3
CHECKSUM = "x-amz-checksum-sha256"  # S3 refuses a body with another one
AGAIN = (408, 425, 429, 500, 502, 503, 504)
REMEDIES = {
    401: "check the credentials",
    403: "check the credentials; a signed link may have expired",
    404: "check the address",
    410: "check the address",
    416: "the file is empty, or shorter than the server said",
}


class _AgainError(Exception):
    """A request failed, and may succeed later."""


class Client:
    """Requests for one file over kept connections.

    Args:
        url: Of the file.
        access: Hosts that may be read.
    """

    def __init__(self, url: Url, access: Access) -> None:
        self._url, self._access = url, access
        self._bucket = urlsplit(url.text).netloc if url.scheme == "s3" else None
        self._pools: dict[Origin, Any] = {}
        self._target: str | None = None  # of the redirects
        self._failures = 0

    def get(self, most: int, span: tuple[int, int] | None = None) -> tuple[bytes, dict[str, str]]:
        """Return the body, and the headers with names in lower case.

        Args:
            most: Bytes that are accepted.
            span: First byte and byte after the last; None: all.

        Raises:
            NetworkError: It failed for good.
            ModuleNotFoundError: The extra `network` is not installed.
        """
        asked = {} if span is None else {"Range": f"bytes={span[0]}-{span[1] - 1}"}
        return self._ask("GET", asked, most)

    def put(self, file: Path, digest: FileDigest) -> None:
        """Store a file in a bucket, and require that it is there.

        Args:
            file: Sent whole.
            digest: Of all its bytes.

        Raises:
            NetworkError: It failed for good.
            ModuleNotFoundError: The extra `network` is not installed.
        """
        size, checksum = str(digest.size), b64encode(bytes.fromhex(digest.sha256)).decode()
        _, sent = self._ask("PUT", {"Content-Length": size, CHECKSUM: checksum}, MESSAGE, file)
        _, found = self._ask("HEAD", {}, 0)
        if (found.get("content-length"), found.get("etag")) != (size, sent.get("etag")):
            raise NetworkError("the bucket holds another file than the one sent; try again later")

    def _ask(
        self, method: str, asked: Mapping[str, str], most: int, file: Path | None = None
    ) -> tuple[bytes, dict[str, str]]:
        """Request until it succeeds.

        Args:
            method: Of HTTP.
            asked: Headers.
            most: Bytes that are accepted.
            file: To send.
        """
        import urllib3

        for wait in (*WAITS, None):
            try:
                return self._once(method, asked, most, file)
            except (_AgainError, urllib3.exceptions.HTTPError, OSError) as fault:
                text = one_line(str(fault))[:200]
                if isinstance(fault, urllib3.exceptions.SSLError) and UNTRUSTED.search(text):
                    raise NetworkError(f"no secure connection ({text})") from fault
                if wait is None:
                    times = f"{len(WAITS) + 1} times in a row"
                    raise NetworkError(f"{text}, {times}; try again later") from fault
                self._pools, self._target = {}, None
                self._failures += 1
            time.sleep(wait * random.uniform(0.5, 1.5))
        raise AssertionError

    def _once(
        self, method: str, asked: Mapping[str, str], most: int, file: Path | None
    ) -> tuple[bytes, dict[str, str]]:
        at = self._target or self._url.text
        if self._bucket:
            at = signed(self._url, method, asked.get(CHECKSUM))
        for hop in range(REDIRECTS + 1):
            try:
                response = self._request(at, method, asked, file)
            except NetworkError as fault:
                raise NetworkError(f"redirects elsewhere: {fault}" if hop else str(fault)) from None
            headers = {name.lower(): value for name, value in response.headers.items()}
            if response.status not in (301, 302, 303, 307, 308) or self._bucket:
                break
            response.close()
            try:
                at = urljoin(at, to := headers.get("location", ""))
            except ValueError:
                raise NetworkError(f"redirects to {to[:100]!r}, which is no address") from None
        else:
            raise NetworkError(f"redirects more than {REDIRECTS} times")
        try:
            self._require_success(response, headers, 206 if "Range" in asked else 200)
            body = _body(response, most)
        except BaseException:
            response.close()
            raise
        response.release_conn()
        self._target = None if self._bucket or at == self._url.text else at
        return body, headers

    def _request(
        self, address: str, method: str, asked: Mapping[str, str], file: Path | None
    ) -> Any:
        import urllib3

        origin, parts = origin_of(address), urlsplit(address)
        if origin not in self._pools:
            addresses = self._access.addresses(origin, self._bucket)
            ip, (scheme, host, port) = addresses[self._failures % len(addresses)], origin
            if scheme == "https":  # the certificate must be that of the host
                self._pools[origin] = urllib3.HTTPSConnectionPool(
                    ip, port, server_hostname=host, assert_hostname=host
                )
            else:
                self._pools[origin] = urllib3.HTTPConnectionPool(ip, port)
        host = parts.netloc.rpartition("@")[2]
        headers = {"Host": host, "Accept-Encoding": "identity", "User-Agent": "mfnet", **asked}
        return self._pools[origin].urlopen(
            method,
            (parts.path or "/") + (f"?{parts.query}" if parts.query else ""),
            body=None if file is None else _pieces(file),
            headers=headers,
            retries=False,
            redirect=False,
            timeout=urllib3.Timeout(connect=CONNECT, read=SILENCE),
            preload_content=False,
            decode_content=False,
        )

    def _require_success(self, response: Any, headers: dict[str, str], expected: int) -> None:
        status = response.status
        if status == expected:
            return
        if status == 200:
            raise NetworkError(
                "the server sends whole files only; one that answers range requests is needed"
            )
        text = f"the server answers {status}"
        text += f" {HTTPStatus(status).phrase}" if status in set(HTTPStatus) else ""
        if region := headers.get("x-amz-bucket-region") if self._bucket else None:
            remedy = f"the bucket is in {region}, set AWS_REGION"
        else:
            other = "check the bucket" if self._bucket else "open the address in a browser"
            remedy = REMEDIES.get(status, other)
        if status in AGAIN or self._target:  # a redirect that was followed before may have expired
            raise _AgainError(text)
        body = _body(response, MESSAGE, cut=True)
        told = re.search(rb"<Message>([^<]+)", body)  # of S3 and Azure
        text += f" ({one_line(told[1].decode('utf-8', 'replace'))[:200]})" if told else ""
        raise NetworkError(f"{text}; {remedy}")


@cache
def _s3() -> Any:
    from botocore import UNSIGNED
    from botocore.config import Config
    from botocore.session import get_session

    public = os.environ.get("AWS_NO_SIGN_REQUEST", "").upper() in ("YES", "TRUE", "1")
    config = Config(signature_version=UNSIGNED if public else "s3v4")
    return get_session().create_client("s3", config=config)


def signed(url: Url, method: str = "GET", checksum: str | None = None) -> str:
    """Return the address over HTTPS of a key in a bucket, signed with the user's credentials.

    Region, profile and endpoint are those of the AWS tools; `AWS_NO_SIGN_REQUEST=YES` is for public
    buckets, as in GDAL.

    Args:
        url: Of the key.
        method: Of the request.
        checksum: Its header `CHECKSUM`, if it has one.

    Raises:
        NetworkError: There are no credentials, or the bucket has an impossible name.
        ModuleNotFoundError: The extra `network` is not installed.
    """
    from botocore.exceptions import BotoCoreError

    parts = urlsplit(url.text)
    try:
        where = {"Bucket": parts.netloc, "Key": parts.path[1:]}
        if checksum is not None:
            where["ChecksumSHA256"] = checksum
        return str(_s3().generate_presigned_url(OPERATIONS[method], where, ExpiresIn=900))
    except BotoCoreError as fault:
        raise NetworkError(
            f"cannot be signed ({one_line(str(fault))[:200]}); set AWS_PROFILE, or "
            "AWS_NO_SIGN_REQUEST=YES for a public bucket"
        ) from fault


def _pieces(file: Path) -> Iterator[bytes]:
    """Read a file to send, as long as the server takes it fast enough."""
    limit = SILENCE + file.stat().st_size / SLOWEST
    end = time.monotonic() + limit
    with file.open("rb") as opened:
        while piece := opened.read(1 << 16):
            yield piece
            if time.monotonic() > end:
                raise _AgainError(f"the server took {opened.tell()} bytes in {limit:.0f} s")


def _body(response: Any, most: int, cut: bool = False) -> bytes:
    """Read a body of at most some bytes, or these of a longer one."""
    body = bytearray()
    limit = SILENCE + most / SLOWEST
    end = time.monotonic() + limit
    while len(body) <= most and (piece := response.read1(1 << 20)):
        body += piece
        if time.monotonic() > end:
            raise _AgainError(f"the server sent {len(body)} bytes in {limit:.0f} s")
    if len(body) > most and not cut:
        raise NetworkError(f"the server sends more than the {most} bytes it should")
    return bytes(body[:most])
