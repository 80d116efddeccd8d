"""Which hosts and addresses may be read, and what an address looks like."""

from __future__ import annotations

import pickle
import socket
import ssl
import subprocess
from pathlib import Path

import pytest
from web import Web

from mfnet_runtime.errors import SceneError, UsageError
from mfnet_runtime.network.access import ANY, Access, NetworkError, is_public, origin_of
from mfnet_runtime.network.file import RemoteFile
from mfnet_runtime.network.url import Url, raster_path

URL = "https://example.org/a/b%20c.tif?signature=secret"


def test_an_address_hides_its_query_and_names_a_file() -> None:
    url = Url(URL)
    assert (str(url), url.name, url.stem) == ("https://example.org/a/b%20c.tif", "b c.tif", "b c")
    assert "secret" not in f"{url!r}"
    assert pickle.loads(pickle.dumps(url)) == url
    assert Url("https://example.org/..%2F..%2Fx.tif").name == ".._.._x.tif"
    assert raster_path(URL) == url
    assert raster_path("a/b.tif") == Path("a/b.tif")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("https://example.org/scenes/", "is a folder; give the address of a file"),
        ("https://example.org", "is a folder"),
        ("https://me:secret@example.org/a.tif", r"https://example.org/a.tif: leave the password"),
        ("https:///a.tif", "expected https://HOST/FILE"),
        ("https://example.org:x/a.tif", "no valid address"),
        ("https://[::1/a.tif", "no valid address"),
        ("https://example.org/a\n.tif", "expected https://HOST/FILE"),
    ],
)
def test_addresses_that_name_no_file(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        raster_path(text)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("host", ["https://h/path", "ftp://h", "h/path", "", "h:x", "https://"])
def test_hosts_that_are_none(host: str) -> None:
    with pytest.raises(UsageError, match=r"--allow-network .*expected HOST"):
        Access([host])


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.215.14", True),
        ("2606:2800:21f:cb07:6820:80da:af6b:8b2c", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("192.168.0.1", False),
        ("172.16.0.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("::1", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
        ("::ffff:10.0.0.1", False),
        ("::ffff:169.254.169.254", False),
        ("2002:7f00:1::", False),
        ("64:ff9b::10.0.0.1", False),
        ("64:ff9b::93.184.215.14", True),
        ("::10.0.0.1", False),
        ("ff02::1", False),
    ],
)
def test_public_addresses(address: str, public: bool) -> None:
    assert is_public(address) == public


@pytest.mark.parametrize(
    ("hosts", "address", "allowed"),
    [
        ([], "https://h.org/a", False),
        ([ANY], "https://h.org/a", True),
        ([ANY], "http://h.org/a", False),
        ([ANY], "https://inside.org/a", False),
        ([ANY, "inside.org"], "https://inside.org/a", True),
        (["h.org"], "https://h.org/a", True),
        (["h.org"], "https://H.ORG:443/a", True),
        (["h.org"], "https://h.org:8443/a", False),
        (["h.org:8443"], "https://h.org:8443/a", True),
        (["h.org"], "http://h.org/a", False),
        (["http://h.org"], "http://h.org/a", True),
        (["h.org"], "https://other.org/a", False),
        (["h.org"], "https://h.org.evil.org/a", False),
        (["inside.org"], "https://inside.org/a", True),
    ],
)
def test_lists_of_hosts(
    hosts: list[str], address: str, allowed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def resolve(host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        ip = "10.0.0.1" if host == "inside.org" else "93.184.215.14"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, port))]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    if allowed:
        assert Access(hosts).addresses(origin_of(address))
    else:
        with pytest.raises(NetworkError, match=r"add --allow-network \S+ if you trust it"):
            Access(hosts).addresses(origin_of(address))


def test_the_certificate_must_be_that_of_the_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Although connections go to an IP address. The name may have one that does not answer."""
    key, certificate = tmp_path / "key.pem", tmp_path / "ca.pem"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=x -addext subjectAltName=DNS:{}"
    words = [*command.format("localhost").split(), "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(words, check=True, capture_output=True)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    (tmp_path / "a.tif").write_bytes(b"II*\0")
    with Web(tmp_path, tls).running() as web:

        def head(host: str) -> bytes:
            name = f"{host}:{web.server_port}"
            return RemoteFile(Url(f"https://{name}/ok/a.tif"), Access([name])).head

        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert head("localhost") == b"II*\0"
        with pytest.raises(SceneError, match=r"no secure connection .*match"):
            head("127.0.0.1")
        monkeypatch.delenv("SSL_CERT_FILE")
        with pytest.raises(SceneError, match=r"no secure connection .*self.signed certificate"):
            head("localhost")


@pytest.mark.parametrize(
    ("host", "message"),
    [
        ("nowhere.invalid", "the host nowhere.invalid is unknown; check the address"),
        ("a..b", "the host a..b is unknown"),
        ("x" * 70, "is unknown"),
        ("\u0448.org", "is no address of a server"),
    ],
)
def test_an_unknown_host(host: str, message: str) -> None:
    with pytest.raises(SceneError, match=message):
        RemoteFile(Url(f"https://{host}/a.tif"), Access([ANY]))


@pytest.mark.parametrize(
    "to",
    ["http://127.0.0.1:1/a.tif", "https://10.0.0.1/a", "file:///a.tif", "https://[::1/a", "//h:x"],
)
def test_no_redirect_leaves_the_list(tmp_path: Path, to: str) -> None:
    (tmp_path / "a.tif").write_bytes(b"II*\0")
    with Web(tmp_path).running() as web, Web(tmp_path).running() as other:
        web.to = to
        with pytest.raises(SceneError, match=r"redirects .*(--allow-network|no address)"):
            RemoteFile(Url(f"{web.origin}/redirect/a.tif"), Access([web.origin, ANY]))
        web.to = f"{other.origin}/ok/a.tif"
        with pytest.raises(SceneError, match=r"redirects elsewhere: .* is not allowed"):
            RemoteFile(Url(f"{web.origin}/redirect/a.tif"), Access([web.origin, ANY]))
        assert other.asked == []
        both = Access([web.origin, other.origin])
        assert RemoteFile(Url(f"{web.origin}/redirect/a.tif"), both).head == b"II*\0"
