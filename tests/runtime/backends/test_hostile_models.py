"""Hostile ONNX files: what is refused before an engine loads them, and what the engines refuse."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import GraphProto, ModelProto, TensorProto, helper, numpy_helper
from support import write_rgbd_model

from mfnet_runtime.backends import backend_from_file
from mfnet_runtime.backends.onnx_file import contract_in_onnx
from mfnet_runtime.errors import MFNetError, ModelError

Change = Callable[[ModelProto], object]


def changed(path: Path, *changes: Change) -> Path:
    model = onnx.load(path, load_external_data=False)
    for change in changes:
        change(model)
    path.write_bytes(model.SerializeToString())
    return path


def refused(
    path: Path, message: str, load: Callable[[Path], object], kind: type[MFNetError] = ModelError
) -> None:
    """Within seconds, in one line, without much memory."""
    started, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(kind, match=message) as caught:
        load(path)
    assert time.monotonic() - started < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 20  # KiB
    said = str(caught.value)
    assert said.startswith(f"{path}: ")
    assert len(said) < len(str(path)) + 600


def refused_by_us(path: Path, message: str) -> None:
    refused(path, message, contract_in_onnx)


def used(graph: GraphProto, weight: str) -> None:
    """Add the mean of a weight to the logits: engines drop weights and nodes that nothing uses."""
    graph.node[0].output[0] = "joined"
    graph.node.append(helper.make_node("ReduceMean", [weight], ["mean"], keepdims=0))
    graph.node.append(helper.make_node("Add", ["joined", "mean"], ["logits"]))


def weight(**fields: Any) -> Change:
    tensor = TensorProto(name="weight", **{"data_type": TensorProto.FLOAT, **fields})

    def change(model: ModelProto) -> None:
        model.graph.initializer.append(tensor)
        used(model.graph, "weight")

    return change


def logits_from(operator: str, domain: str = "") -> Change:
    """Logits through an operator of one input."""

    def change(model: ModelProto) -> None:
        model.graph.node[0].output[0] = "joined"
        model.graph.node.append(helper.make_node(operator, ["joined"], ["logits"], domain=domain))

    return change


def in_a_circle(model: ModelProto) -> None:
    model.graph.node[0].output[0] = "joined"
    model.graph.node.append(helper.make_node("Add", ["joined", "sum"], ["sum"]))
    model.graph.node.append(helper.make_node("Identity", ["sum"], ["logits"]))


def enormous(operator: str) -> Change:
    """2^40 numbers made from a few by an operator that the file holds."""
    size = 1 << 20

    def change(model: ModelProto) -> None:
        shapes = [(size, 1), (1, size)] if operator == "MatMul" else [(1, 1)]
        inputs = [np.ones(shape, np.float32) for shape in shapes]
        if operator != "MatMul":
            inputs.append(np.array([size, size]))
        if operator == "ConstantOfShape":
            del inputs[0]
        names = [f"input{index}" for index in range(len(inputs))]
        for name, array in zip(names, inputs, strict=True):
            model.graph.initializer.append(numpy_helper.from_array(array, name))
        model.graph.node.append(helper.make_node(operator, names, ["large"]))
        used(model.graph, "large")

    return change


@pytest.mark.parametrize(
    "change",
    [
        logits_from("Evil", "com.example"),
        logits_from("Evil\x1b[31m"),
        in_a_circle,
        weight(dims=[1 << 40], raw_data=b"1234"),
        weight(dims=[-4], raw_data=b"1234"),
        weight(dims=[1 << 30, 1 << 30], raw_data=b"1234"),
        weight(dims=[2], raw_data=b"1234"),
        weight(dims=[1 << 20], float_data=[1.0]),
        weight(dims=[1], data_type=TensorProto.STRING, string_data=[b"1"]),
    ],
)
def test_graphs_that_the_engines_refuse(model: Path, name: str, change: Change) -> None:
    def load(path: Path) -> object:
        return backend_from_file(path, name)

    refused(changed(model, change), "cannot load it .*mfnet-export", load)


@pytest.mark.parametrize("operator", ["ConstantOfShape", "Expand", "Tile", "MatMul"])
def test_memory_for_enormous_tensors_is_refused(model: Path, name: str, operator: str) -> None:
    """Some versions see it when they load the file, others when they run it."""

    def run(path: Path) -> None:
        with backend_from_file(path, name) as backend:
            shapes = {spec.name: (1, *spec.shape[1:]) for spec in backend.inputs}
            backend.infer({key: np.zeros(shape, np.float32) for key, shape in shapes.items()})

    refused(changed(model, enormous(operator)), "memory|maximum", run, MFNetError)


def field(number: int, content: bytes) -> bytes:
    """A length-delimited field."""
    size, length = len(content), b""
    while size > 127:
        length += bytes([size & 127 | 128])
        size >>= 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (field(7, b"\x0a\xff\xff\xff\xff\x07"), "field 1 is cut short"),
        (field(7, b"\x0a" + b"\xff" * 9 + b"\x01"), "field 1 is cut short"),  # negative
        (field(7, b"\x0a" + b"\xff" * 11), "more than 64 bits"),
        (field(7, b"\x08\x05"), "field 1 of a graph is not a message"),
        (b"\x38\x01", "field 7 of a model is not a message"),
        (b"\x00\x01", "field 0 is not allowed"),
        (b"\xba\x80\x80\x80\x10\x00", "is not allowed"),  # 7 to a parser of 32 bits
        (b'<?xml version="1.0"?><net/>', "wire type 4"),  # OpenVINO's own format
        (b"\x08\x08" * 3_000_000, "more than 1000000 fields"),
        (field(8, b"\x10\x11") + field(14, field(1, b"k") + field(2, bytes(1 << 25))), "of more"),
    ],
)
def test_messages_that_are_malformed(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "odd.onnx"
    path.write_bytes(content)
    refused_by_us(path, f"not a usable ONNX file: .*{message}.*mfnet-export")


def test_ten_thousand_graphs_in_each_other(model: Path, name: str) -> None:
    """They are walked through without recursion; the engines' parsers end at a hundred."""
    deep = b""
    for _ in range(10_000):  # AttributeProto.g, NodeProto.attribute, GraphProto.node
        for number in (6, 5, 1):
            deep = field(number, deep)
    model.write_bytes(model.read_bytes() + field(7, deep))
    contract_in_onnx(model)
    refused(model, "cannot load it", lambda path: backend_from_file(path, name))


def test_a_file_longer_than_the_format_allows(tmp_path: Path) -> None:
    path = tmp_path / "long.onnx"
    path.touch()
    os.truncate(path, 1 << 32)  # takes no disk
    refused_by_us(path, f"{1 << 32} bytes; the format ends at")


def in_another_file(location: str, size: int = 100, **entries: object) -> TensorProto:
    tensor = TensorProto(name="weight", data_type=TensorProto.FLOAT, dims=[size])
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def as_weight(model: ModelProto, tensor: TensorProto) -> None:
    model.graph.initializer.append(tensor)
    used(model.graph, "weight")


def as_constant(model: ModelProto, tensor: TensorProto) -> None:
    used(model.graph, "weight")
    model.graph.node.insert(0, helper.make_node("Constant", [], ["weight"], value=tensor))


def as_branch(model: ModelProto, tensor: TensorProto) -> None:
    branch = helper.make_graph([], "branch", [], [], [tensor])
    model.graph.node.append(helper.make_node("If", ["image"], ["new"], then_branch=branch))


def as_function(model: ModelProto, tensor: TensorProto) -> None:
    node = helper.make_node("Constant", [], ["weight"], value=tensor)
    model.functions.append(
        helper.make_function("d", "Secret", [], ["weight"], [node], model.opset_import)
    )


def as_sparse(model: ModelProto, tensor: TensorProto) -> None:
    model.graph.sparse_initializer.add().values.CopyFrom(tensor)


@pytest.mark.parametrize("put", [as_weight, as_constant, as_branch, as_function, as_sparse])
def test_external_data_is_found_wherever_it_is(
    model: Path, put: Callable[[ModelProto, TensorProto], None]
) -> None:
    """ONNX Runtime before 1.24 reads it from any file."""
    changed(model, lambda found: put(found, in_another_file("/etc/passwd")))
    refused_by_us(model, r"its weights are in b'/etc/passwd'; expected 'rgbd\.onnx\.data'")


@pytest.mark.parametrize(
    "location", ["../rgbd.onnx.data", "below/rgbd.onnx.data", "other.data", "", "*/_ORT_MEM_ADDR_/"]
)
def test_external_data_in_another_file_than_the_one_beside(model: Path, location: str) -> None:
    changed(model, lambda found: as_weight(found, in_another_file(location)))
    refused_by_us(model, "its weights are in .*; expected 'rgbd.onnx")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (field(1, b"location") + field(2, b"a") + field(2, b"b"), "its weights are in b'b'"),
        (field(1, b"a") + field(2, b"b") + field(1, b"location"), "its weights are in b'b'"),
        # parsers skip a field of another wire type than they expect
        (field(1, b"location") + field(2, b"a") + b"\x08\x00\x10\x00", "its weights are in b'a'"),
    ],
)
def test_entries_that_parsers_could_take_differently(
    tmp_path: Path, entry: bytes, message: str
) -> None:
    path = tmp_path / "odd.onnx"
    path.write_bytes(field(7, field(5, field(13, entry))))
    refused_by_us(path, message)


def test_external_data_beside(model: Path, tmp_path: Path) -> None:
    data, secret = model.with_name("rgbd.onnx.data"), tmp_path / "secret"
    changed(model, lambda found: as_weight(found, in_another_file(data.name, length=400)))
    refused_by_us(model, "is missing, a link, or not a regular file")
    os.mkfifo(data)  # which OpenVINO 2025.0 waits for
    refused_by_us(model, "not a regular file")
    data.unlink()
    data.write_bytes(np.full(100, 7, np.float32).tobytes())
    with backend_from_file(model) as backend:
        shapes = {spec.name: (1, *spec.shape[1:]) for spec in backend.inputs}
        feed = {key: np.zeros(shape, np.float32) for key, shape in shapes.items()}
        assert (backend.infer(feed)["logits"] == 7).all()
    data.rename(secret)
    data.symlink_to(secret)
    refused_by_us(model, "a link")
    data.unlink()
    os.link(secret, data)
    refused_by_us(model, "a link")


@pytest.mark.parametrize(
    "entries", [{"offset": -4}, {"offset": 4}, {"offset": "four"}, {"length": 4}]
)
def test_external_data_cut_short_is_refused_by_the_engines(
    model: Path, name: str, entries: dict[str, object]
) -> None:
    model.with_name("rgbd.onnx.data").write_bytes(bytes(400))
    tensor = in_another_file("rgbd.onnx.data", 100, **{"length": 400, **entries})
    changed(model, lambda found: as_weight(found, tensor))
    refused(model, "cannot load it", lambda path: backend_from_file(path, name))


@settings(max_examples=30)
@given(flips=st.dictionaries(st.integers(0, 2000), st.integers(0, 255), min_size=1, max_size=6))
def test_flipped_bytes(tmp_path_factory: pytest.TempPathFactory, flips: dict[int, int]) -> None:
    """Whatever changes in a file, its contract is read or the file is refused."""
    path = write_rgbd_model(tmp_path_factory.mktemp("flipped") / "rgbd.onnx")
    content = bytearray(path.read_bytes())
    for place, value in flips.items():
        content[place % len(content)] = value
    path.write_bytes(content)
    try:
        contract_in_onnx(path)
    except ModelError as fault:
        assert str(fault).startswith(f"{path}: ")  # noqa: PT017
