"""The hosts that may be read, and the addresses that they may have.

GDAL cannot hold such a list: it follows redirects off it. So connections are ours, and go to an
address that was checked.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from urllib.parse import urlsplit

from mfnet_runtime.errors import UsageError

ANY = "any"  # in place of hosts
NAT64 = 0x64FF9B << 64  # first 96 bits of addresses that embed an IPv4 address, as do zeros
PORTS = {"https": 443, "http": 80, "s3": 0}
Origin = tuple[str, str, int]  # scheme, host, port


class NetworkError(Exception):
    """A request failed for good; the text does not name the file."""


def origin_of(address: str) -> Origin:
    """Return scheme, host and port of an address.

    Raises:
        NetworkError: It has none of these.
    """
    try:
        parts = urlsplit(address)
        found = parts.scheme, parts.hostname or "", parts.port or PORTS[parts.scheme]
    except (KeyError, ValueError):
        found = ("", "", 0)
    if not found[1] or not found[1].isascii():
        raise NetworkError(f"{address[:100]!r} is no address of a server")
    return found


class Access:
    """The hosts that may be read.

    Args:
        hosts: `HOST[:PORT]` over HTTPS, `http://HOST[:PORT]`, `s3://BUCKET`, or `any` for all hosts
            of the internet over HTTPS and buckets there; none keeps the network off.

    Raises:
        UsageError: One is none of these.
    """

    def __init__(self, hosts: Sequence[str]) -> None:
        self._off, self._any = not hosts, ANY in hosts
        self._listed = {_listed(host) for host in hosts if host != ANY}

    def addresses(self, origin: Origin, bucket: str | None = None) -> list[str]:
        """Return the IP addresses of a host that may be read.

        Args:
            origin: Of the request.
            bucket: Of S3, for which the user's settings gave the host.

        Raises:
            NetworkError: The host is not allowed, unknown, or not on the internet and not listed.
            OSError: The resolver does not answer.
        """
        scheme, host, port = origin
        listed = origin in self._listed or ("s3", bucket, 0) in self._listed
        if not listed and not (self._any and scheme == "https"):
            name = host if port == PORTS[scheme] else f"{host}:{port}"
            name = f"s3://{bucket}" if bucket else name if scheme == "https" else f"http://{name}"
            off = "the network is off" if self._off else f"{name} is not allowed"
            raise NetworkError(f"{off}; add --allow-network {name} if you trust it")
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (socket.gaierror, UnicodeError) as fault:  # the latter for labels of 64 characters
            if isinstance(fault, OSError) and fault.errno == socket.EAI_AGAIN:
                raise
            raise NetworkError(f"the host {host} is unknown; check the address") from None
        addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        for address in addresses:
            if not listed and not is_public(address):
                raise NetworkError(
                    f"{host} is {address}, which is not on the internet; add --allow-network "
                    f"{host}:{port} if you trust it"
                )
        return addresses


def is_public(text: str) -> bool:
    """Tell if an IP address is on the internet: not private, loopback, link-local or multicast."""
    address = ip_address(text)
    if isinstance(address, IPv6Address):
        embedded = int(address) >> 32 in (0, NAT64)
        low = IPv4Address(int(address) & 0xFFFFFFFF) if embedded else None
        address = address.ipv4_mapped or address.sixtofour or low or address
    return address.is_global and not address.is_multicast


def _listed(text: str) -> Origin:
    address = text if "://" in text else f"https://{text}"
    try:
        origin = origin_of(address)
    except NetworkError:
        origin = ("", "", 0)
    if not origin[1] or urlsplit(address).path.strip("/"):
        raise UsageError(
            f"--allow-network {text!r}: expected HOST[:PORT], http://HOST[:PORT], s3://BUCKET, any"
        )
    return origin
