"""Which backend takes a file, and which files and options each one refuses, with what remedy."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from support import RGBD

from mfnet_runtime.backends import backend_from_file
from mfnet_runtime.backends.onnx_file import contract_in_onnx
from mfnet_runtime.contract import METADATA_KEY, Contract
from mfnet_runtime.errors import ModelError, UsageError

CONTRACT = Contract(32, RGBD)
needs_openvino = pytest.mark.skipif(find_spec("openvino") is None, reason="no openvino")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.onnx: no such model file"):
        backend_from_file(tmp_path / "none.onnx")


def test_unknown_backend_lists_the_known(model: Path) -> None:
    with pytest.raises(
        UsageError, match=r"no backend named 'caffe'; choose from openvino, onnxruntime"
    ):
        backend_from_file(model, "caffe")


@needs_openvino
def test_auto_takes_openvino(model: Path) -> None:
    with backend_from_file(model) as backend:
        assert backend.name == "openvino"


def test_auto_takes_onnx_runtime_where_openvino_is_missing(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with backend_from_file(model) as backend:
        assert backend.name == "onnxruntime"


def test_a_named_backend_that_is_missing_names_its_extra(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(UsageError, match=r"pip install 'mfnet\[openvino\]'"):
        backend_from_file(model, "openvino")


@pytest.mark.parametrize(
    ("suffix", "content"), [(".pt", b""), (".pth", b""), ("_0.8412", b"PK\3\4")]
)
def test_a_checkpoint_is_told_to_be_exported(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"best{suffix}"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"export it first: mfnet-export --ckpt best"):
        backend_from_file(path)


@pytest.mark.parametrize(
    "content", [b"", b"\x08\x07garbage", b"\x00" * 1000, b"\xff" * 50, b"\x3a\xff\xff\x7f"]
)
def test_damaged_onnx(
    tmp_path: Path, name: str, content: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bad.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"bad\.onnx: .*mfnet-export"):
        backend_from_file(path, name)
    assert capfd.readouterr().err == ""  # the engines' parsers stay silent


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
def test_a_file_cut_short(model: Path, name: str, share: float) -> None:
    whole = model.read_bytes()
    model.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(ModelError, match=r"rgbd\.onnx: .*mfnet-export"):
        backend_from_file(model, name)


def test_a_graph_that_means_nothing(model: Path, name: str) -> None:
    changed = onnx.load(model)
    del changed.graph.node[0].attribute[:]
    onnx.save(changed, model)
    with pytest.raises(ModelError, match=r"rgbd\.onnx: .* cannot load it .*mfnet-export"):
        backend_from_file(model, name)


def test_what_an_engine_says_need_not_be_text(
    model: Path, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    changed = onnx.load(model)
    del changed.graph.node[0].attribute[:]
    changed.graph.node[0].name = "nameless"
    onnx.save(changed, model)
    model.write_bytes(model.read_bytes().replace(b"nameless", b"\xb4" * 8))
    with pytest.raises(ModelError, match=r"rgbd\.onnx: .*mfnet-export"):
        backend_from_file(model, name)
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("opset", [7, 99])
def test_unknown_opset(model: Path, name: str, opset: int) -> None:
    changed = onnx.load(model)
    changed.opset_import[0].version = opset
    onnx.save(changed, model)
    with pytest.raises(ModelError, match=rf"rgbd\.onnx: ONNX opset {opset}; this version runs"):
        backend_from_file(model, name)


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
        (
            Contract(32, RGBD, precision="fp16").to_json(),
            "FP16 file runs .*mfnet-export --onnx rgbd.onnx --plan, or use --device cuda",
        ),
        (
            Contract(32, RGBD, precision="int8+fp16").to_json(),
            "run the INT8 file, .*mfnet-export --onnx rgbd.onnx --plan",
        ),
        (Contract(32, RGBD, precision="bf16").to_json(), "export in FP32 .*--precision bf16"),
    ],
)
def test_contract_and_graph_must_agree(
    model: Path, name: str, contract: str | None, message: str
) -> None:
    with pytest.raises(ModelError, match=rf"rgbd\.onnx: .*{message}"):
        backend_from_file(with_metadata(model, contract), name)


def test_a_graph_of_other_numbers(model: Path, name: str) -> None:
    changed = onnx.load(model)
    for value in (*changed.graph.input, *changed.graph.output):
        value.type.tensor_type.elem_type = TensorProto.DOUBLE
    onnx.save(changed, model)
    with pytest.raises(ModelError, match=r"the graph has .*float64|double.* contract implies"):
        backend_from_file(model, name)


def test_onnx_runtime_refuses_bf16_and_says_what_has_it(model: Path) -> None:
    with pytest.raises(UsageError, match=r"no BF16 on a CPU; .*--backend openvino"):
        backend_from_file(model, "onnxruntime", precision="bf16")


@needs_openvino
def test_a_cpu_without_bf16_is_refused(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import openvino

    known = {"OPTIMIZATION_CAPABILITIES": ["FP32", "INT8"], "FULL_DEVICE_NAME": "Old CPU"}
    monkeypatch.setattr(openvino.Core, "get_property", lambda core, device, key: known[key])
    with pytest.raises(UsageError, match=r"Old CPU has no native BF16; leave out --precision"):
        backend_from_file(model, "openvino", precision="bf16")


@needs_openvino
def test_int8_promised_and_not_run_is_refused(model: Path) -> None:
    path = with_metadata(model, Contract(32, RGBD, precision="int8").to_json())
    with pytest.raises(ModelError, match=r"is INT8, but OpenVINO .* runs none"):
        backend_from_file(path, "openvino")


def test_the_contract_is_read_past_weights_and_other_metadata(model: Path) -> None:
    changed = onnx.load(model)
    weights = np.zeros(1 << 20, np.float32)
    changed.graph.initializer.append(onnx.numpy_helper.from_array(weights, "unused"))
    helper.set_model_props(changed, {"a": "", "ü": "x" * 100_000, METADATA_KEY: CONTRACT.to_json()})
    changed.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    onnx.save(changed, model)
    assert contract_in_onnx(model) == CONTRACT
