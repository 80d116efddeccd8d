"""Rasters from a bucket and files to it, of moto's S3."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mfnet_runtime.errors import SceneError, UsageError
from mfnet_runtime.files import FileDigest
from mfnet_runtime.network import client
from mfnet_runtime.network.access import Access
from mfnet_runtime.network.file import RemoteError, RemoteFile
from mfnet_runtime.network.upload import Bucket
from mfnet_runtime.network.url import Url

pytest.importorskip("moto")
pytest.importorskip("flask_cors")


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(endpoint: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """A bucket with a.tif, and the settings of its user."""
    from botocore.session import get_session

    for name in ("AWS_PROFILE", "AWS_NO_SIGN_REQUEST", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    settings = {"AWS_ENDPOINT_URL": endpoint, "AWS_DEFAULT_REGION": "eu-central-1"}
    settings |= {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
    settings |= {"AWS_CONFIG_FILE": str(tmp_path / "none"), "AWS_EC2_METADATA_DISABLED": "true"}
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    s3 = get_session().create_client("s3")
    where = {"LocationConstraint": "eu-central-1"}
    s3.create_bucket(Bucket="rasters", CreateBucketConfiguration=where)
    s3.put_object(Bucket="rasters", Key="b c/a.tif", Body=bytes(range(256)) * 1000)
    client._s3.cache_clear()
    yield "s3://rasters"
    for one in s3.list_objects_v2(Bucket="rasters")["Contents"]:
        s3.delete_object(Bucket="rasters", Key=one["Key"])
    s3.delete_bucket(Bucket="rasters")
    client._s3.cache_clear()


def test_a_key_is_read(bucket: str) -> None:
    remote = RemoteFile(Url(f"{bucket}/b c/a.tif"), Access([bucket]))
    assert remote.size == 256_000
    assert remote.read(0, 256_000) == bytes(range(256)) * 1000
    assert str(remote.url) == "s3://rasters/b c/a.tif"


def test_what_a_bucket_refuses(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SceneError, match=r"s3://rasters/b.tif: .*404 Not Found .*; check the addr"):
        RemoteFile(Url(f"{bucket}/b.tif"), Access([bucket]))
    with pytest.raises(SceneError, match=r"--allow-network s3://rasters if you trust it"):
        RemoteFile(Url(f"{bucket}/b c/a.tif"), Access(["any"]))  # its endpoint is not public
    with pytest.raises(SceneError, match=r"s3://rasters is not allowed"):
        RemoteFile(Url(f"{bucket}/b c/a.tif"), Access(["s3://others"]))
    client._s3.cache_clear()
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(SceneError, match=r"cannot be signed \(Unable to locate credentials\)"):
        RemoteFile(Url(f"{bucket}/b c/a.tif"), Access([bucket]))


def test_files_are_stored(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [tmp_path / "ä +%41.tif", tmp_path / "ä.qml", tmp_path / "empty"]
    for path, size in zip(paths, (200_001, 5, 0), strict=True):
        path.write_bytes(bytes(range(256)) * (size // 256) + bytes(size % 256))
    digests = {path.name: FileDigest.of(path, whole=True) for path in paths}
    addresses = Bucket(f"{bucket}/x y/", [bucket]).upload(paths, digests)
    assert addresses == [f"{bucket}/x y/{path.name}" for path in paths]
    for path in paths:
        found = client._s3().get_object(Bucket="rasters", Key=f"x y/{path.name}")["Body"].read()
        assert found == path.read_bytes()
    with pytest.raises(RemoteError, match=r"s3://wrong/.*404 Not Found \(The specified bucket"):
        Bucket("s3://wrong", ["s3://wrong"]).upload(paths, digests)
    client._s3.cache_clear()
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(UsageError, match=r"--upload s3://rasters: cannot be signed"):
        Bucket(bucket, [bucket])
