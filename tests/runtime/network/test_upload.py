"""Finished files to a bucket: whole and recorded, or a scene that failed and that resumes."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import results_in, write_rgbd_model, write_scene
from web import Web

from mfnet_runtime.cli.main import main
from mfnet_runtime.errors import SceneError, UsageError
from mfnet_runtime.files import FileDigest
from mfnet_runtime.network import client, upload
from mfnet_runtime.network.file import RemoteError
from mfnet_runtime.network.upload import Bucket
from mfnet_runtime.run.executors import base

pytest.importorskip("urllib3")
pytest.importorskip("botocore")

NAMES = ["town.tif", "town.tif.aux.xml", "town.qml"]


@pytest.fixture
def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    """A store as the endpoint of S3, and a client without patience."""
    monkeypatch.setattr(client, "WAITS", (0.01, 0.01))
    for name in ("AWS_PROFILE", "AWS_NO_SIGN_REQUEST", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    with Web(tmp_path).running() as server:
        settings = {"AWS_ENDPOINT_URL": server.origin, "AWS_DEFAULT_REGION": "eu-central-1"}
        settings |= {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
        settings |= {"AWS_CONFIG_FILE": str(tmp_path / "none"), "AWS_EC2_METADATA_DISABLED": "true"}
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        client._s3.cache_clear()
        yield server
    client._s3.cache_clear()


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A file of several pieces."""
    path = tmp_path / "a b.tif"
    path.write_bytes(np.random.default_rng(0).bytes(300_001))
    return path


def send(path: Path, bucket: str) -> list[str]:
    digest = FileDigest.of(path, whole=True)
    return Bucket(f"s3://{bucket}/maps/", [f"s3://{bucket}"]).upload([path], {path.name: digest})


@pytest.mark.parametrize("kind", ["rasters", "flaky"])
def test_a_file_is_stored_whole(web: Web, large: Path, kind: str) -> None:
    assert send(large, kind) == [f"s3://{kind}/maps/a b.tif"]
    assert web.stored == {"maps/a%20b.tif": large.read_bytes()}


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("stall", r"[Tt]imed out.*, 3 times in a row; try again later"),
        ("503", r"answers 503 Service Unavailable, 3 times in a row; try again later"),
        ("403", r"answers 403 Forbidden \(Request has expired\); check the credentials; .*"),
        ("damaged", r"answers 400 Bad Request \(other bytes\); check the bucket"),
        ("short", r"the bucket holds another file than the one sent; try again later"),
    ],
)
def test_faults_are_one_line(
    web: Web, large: Path, kind: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "stall":
        monkeypatch.setattr(client, "SILENCE", 0.1)
    with pytest.raises(RemoteError, match=f"uploaded, .*{message}; the files") as caught:
        send(large, kind)
    text = str(caught.value)
    assert text.startswith(f"s3://{kind}/maps/a b.tif: ")
    assert "\n" not in text
    assert "Signature" not in text


def test_a_slow_server_is_given_up(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert b"".join(client._pieces(large)) == large.read_bytes()
    monkeypatch.setattr(client, "SILENCE", -10)
    with pytest.raises(client._AgainError, match="the server took 65536 bytes in -4 s"):
        list(client._pieces(large))


def test_what_is_refused(web: Web, large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("https://h.org/a", "s3://", "s3:///a", "s3://b/a?x", "maps"):
        with pytest.raises(UsageError, match=r"expected s3://BUCKET/PREFIX"):
            Bucket(folder, ["s3://b"])
    with pytest.raises(UsageError, match=r"the network is off; add --allow-network s3://b "):
        Bucket("s3://b/maps", [])
    for name in ("a?.tif", "a#.tif", "a\n.tif"):
        with pytest.raises(SceneError, match="cannot be part of an address; rename the scene"):
            Bucket("s3://b", ["s3://b"]).addresses([Path(name)])
    monkeypatch.setattr(upload, "LARGEST", 300_000)
    with pytest.raises(RemoteError, match=r"has 0\.0 GiB, and S3 takes 5 in one request"):
        send(large, "rasters")
    assert web.asked == []


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    """Arguments of a run over one scene."""
    scene = write_scene(tmp_path / "scenes", "town", 100, 120)
    model = write_rgbd_model(tmp_path / "m.onnx")
    found = [model, scene.image, "--dsm", scene.dsm, "-o", tmp_path / "out" / "town.tif"]
    return [str(word) for word in found]


def recorded(folder: Path) -> list[Any]:
    rows = map(json.loads, (folder / "manifest.jsonl").read_text().splitlines())
    return [row["row"]["uploaded"] for row in rows if row["record"] == "done"]


def test_a_run_records_what_it_uploaded(
    web: Web,
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.ERROR)
    out = tmp_path / "out"
    upload = ["--upload", "s3://rasters/maps", "--allow-network", "s3://rasters"]
    assert main([*words, "--upload", "s3://rasters/maps"]) == 2
    assert not out.exists(), "refused before the run"
    web.kind = "503"
    assert main([*words, *upload]) == 4
    assert "s3://rasters/maps/town.qml: cannot be uploaded, the server answers 503" in caplog.text
    assert "town.tif" in results_in(out)
    assert recorded(out) == []

    web.kind = None
    monkeypatch.setattr(base, "do", None)  # nothing is computed again
    assert main([*words, *upload, "--resume"]) == 0
    addresses = [f"s3://rasters/maps/{name}" for name in NAMES]
    assert recorded(out) == [addresses]
    assert web.stored == {f"maps/{name}": (out / name).read_bytes() for name in NAMES}
    assert [path.partition("?")[0] for path in web.asked][-1] == "/rasters/maps/town.tif"
    asked = len(web.asked)
    assert main([*words, *upload, "--resume"]) == 0
    assert len(web.asked) == asked
    assert "; uploaded to s3://rasters/maps/town.tif; done before" in capsys.readouterr().out


def test_a_finished_run_is_uploaded_later(
    web: Web, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(words) == 0
    assert recorded(tmp_path / "out") == [[]]
    monkeypatch.setattr(base, "do", None)
    upload = ["--resume", "--upload", "s3://rasters", "--allow-network", "s3://rasters"]
    web.kind = "503"
    assert main([*words, *upload]) == 4
    web.kind = None
    assert main([*words, *upload]) == 0
    assert recorded(tmp_path / "out") == [[], [f"s3://rasters/{name}" for name in NAMES]]
    assert web.stored.keys() == set(NAMES)
