"""One conformance suite for every backend, and what each refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from support import RGBD, write_rgbd_model

from mfnet_runtime.backends import BACKENDS, backend_from_file
from mfnet_runtime.contract import METADATA_KEY, Contract
from mfnet_runtime.errors import ModelError, UsageError


@pytest.fixture(params=sorted(BACKENDS))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_rgbd_model(tmp_path / "rgbd.onnx")


def feed(batch: int = 2, window: int = 32) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(batch)
    return {
        "image": rng.random((batch, 3, window, window), np.float32),
        "dsm": rng.random((batch, 1, window, window), np.float32),
    }


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_infers_any_batch(name: str, model: Path, batch: int) -> None:
    given = feed(batch)
    with backend_from_file(model, name) as backend:
        logits = backend.infer(given)["logits"]
        assert logits.dtype == np.float32
        np.testing.assert_array_equal(logits, np.concatenate([given["image"], given["dsm"]], 1))


def test_says_what_it_is(name: str, model: Path) -> None:
    with backend_from_file(model, name, threads=1) as backend:
        assert backend.name == name
        assert "CPU" in backend.device
        assert backend.contract == Contract(32, RGBD)
        assert [spec.name for spec in backend.inputs] == ["image", "dsm"]
        assert backend.outputs[0].shape == (-1, 4, 32, 32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: {"image": f["image"]}, r"feed has image; the model takes image, dsm"),
        (lambda f: {**f, "extra": f["dsm"]}, r"feed has dsm, extra, image"),
        (lambda f: {**f, "dsm": f["dsm"].astype(np.float64)}, r"'dsm' is float64"),
        (lambda f: {**f, "image": f["image"][:, :2]}, r"'image' is float32 \(2, 2, 32, 32\)"),
        (lambda f: {**f, "image": f["image"][0]}, r"'image' is float32 \(3, 32, 32\)"),
        (lambda f: {**f, "dsm": f["dsm"][:1]}, r"batch sizes \[1, 2\]"),
        (lambda f: {key: array[:0] for key, array in f.items()}, r"batch sizes \[0\]"),
    ],
)
def test_refuses_a_wrong_feed(name: str, model: Path, change, message: str) -> None:  # type: ignore[no-untyped-def]
    with backend_from_file(model, name) as backend, pytest.raises(ModelError, match=message):
        backend.infer(change(feed()))


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.onnx: no such model file"):
        backend_from_file(tmp_path / "none.onnx")


def test_unknown_backend_lists_the_known(model: Path) -> None:
    with pytest.raises(UsageError, match=r"no backend named 'caffe'; there are onnxruntime"):
        backend_from_file(model, "caffe")


@pytest.mark.parametrize("suffix", [".pt", ".pth"])
def test_a_checkpoint_is_told_to_be_exported(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"best{suffix}"
    path.touch()
    with pytest.raises(ModelError, match=r"export it first: mfnet-export --ckpt best"):
        backend_from_file(path)


@pytest.mark.parametrize("content", [b"", b"\x08\x07garbage", b"\x00" * 1000])
def test_damaged_onnx(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"bad\.onnx: .*mfnet-export"):
        backend_from_file(path)


def with_metadata(path: Path, contract: str | None) -> Path:
    model = onnx.load(path)
    del model.metadata_props[:]
    if contract is not None:
        helper.set_model_props(model, {METADATA_KEY: contract})
    onnx.save(model, path)
    return path


@pytest.mark.parametrize(
    ("contract", "message"),
    [
        (None, "without an mfnet contract"),
        ("{", "contract is not JSON"),
        ('{"format": "mfnet-contract/99"}', "contract has format 'mfnet-contract/99'"),
        (Contract(64, RGBD).to_json(), "its contract implies"),
        (Contract(32, type(RGBD).numbered(3)).to_json(), "its contract implies"),
        (Contract(32, RGBD, precision="fp16").to_json(), "FP16 file runs .* without --fp16"),
    ],
)
def test_contract_and_graph_must_agree(model: Path, contract: str | None, message: str) -> None:
    with pytest.raises(ModelError, match=rf"rgbd\.onnx: .*{message}"):
        backend_from_file(with_metadata(model, contract))
