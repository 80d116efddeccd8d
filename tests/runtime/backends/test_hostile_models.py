"""ONNX files that mean harm: refused in one line before an engine sees them."""

from __future__ import annotations

import json
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
from onnx import ModelProto, TensorProto, helper, numpy_helper
from support import RGBD, write_rgbd_model

import mfnet_runtime.backends.onnx_reader
import mfnet_runtime.backends.onnx_validation
from mfnet_runtime.backends import backend_from_file
from mfnet_runtime.backends.onnx_header import header_from_onnx
from mfnet_runtime.backends.onnx_operators import OPERATORS
from mfnet_runtime.contract import METADATA_KEY, Contract
from mfnet_runtime.errors import ModelError

Change = Callable[[ModelProto], object]


def changed(path: Path, change: Change) -> Path:
    model = onnx.load(path)
    change(model)
    onnx.save(model, path)
    return path


def refused(path: Path, message: str) -> None:
    """By whatever opens it, in a moment, in one line."""
    started, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ModelError, match=message) as caught:
        backend_from_file(path)
    assert time.monotonic() - started < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 20  # KiB
    said = str(caught.value)
    assert said.startswith(f"{path}: ")
    assert "mfnet-export" in said
    assert said.isprintable()
    assert len(said) < len(str(path)) + 600


def add_node(operator: str, domain: str = "", output: str = "new", **attributes: Any) -> Change:
    node = helper.make_node(operator, ["image"], [output], domain=domain, **attributes)
    return lambda model: model.graph.node.append(node)


def add_weight(name: str = "weight", **fields: Any) -> Change:
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT)
    for key, value in fields.items():
        if isinstance(value, list):
            getattr(tensor, key).extend(value)
        else:
            setattr(tensor, key, value)
    return lambda model: model.graph.initializer.append(tensor)


BRANCH = helper.make_graph([], "branch", [], [])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (add_node("Evil", "com.example"), r"operator 'Evil' of domain 'com\.example'"),
        (add_node("FusedMatMul", "com.microsoft"), "of domain 'com.microsoft'"),
        (add_node("Evil\x1b[31m"), r"operator 'Evil\\x1b\[31m', which networks"),
        (add_node("If", then_branch=BRANCH, else_branch=BRANCH), "an operator holds graphs"),
        (add_node("Add", body=BRANCH), "an operator holds graphs"),
        (add_node("ConstantOfShape"), "operator 'ConstantOfShape'"),
        (add_node("RandomNormalLike"), "operator 'RandomNormalLike'"),
        (
            lambda model: model.functions.append(
                helper.make_function("d", "Concat", [], [], [], model.opset_import)
            ),
            "functions of its own",
        ),
        (lambda model: model.training_info.add(), "a graph for training"),
        (lambda model: model.graph.sparse_initializer.add(), "sparse weights"),
        (
            lambda model: model.graph.node.add(
                op_type="Add", input=["sum", "image"], output=["sum"]
            ),
            "nothing before it makes 'sum', or it is in a circle",
        ),
        (add_weight(dims=[1 << 40], raw_data=b"1234"), f"is {1 << 40} long along an axis"),
        (add_weight(dims=[-4], raw_data=b"1234"), "is -4 long along an axis"),
        (add_weight(dims=[1 << 30, 1 << 30], raw_data=b"1234"), "has other data"),
        (add_weight(dims=[2], raw_data=b"1234"), r"'weight' says \[2\], and has other data"),
        (add_weight(dims=[1 << 20], float_data=[1.0]), "has other data"),
        (add_weight(dims=[1 << 20]), "has other data"),
        (add_weight(dims=[1], data_type=TensorProto.STRING), "holds no numbers"),
        (add_weight("x" * 5000, dims=[]), "5000 bytes; at most 4096 expected"),
        (lambda model: setattr(model.graph.input.add(), "name", "x" * 5000), "5000 bytes"),
        (
            lambda model: model.graph.value_info.append(
                helper.make_tensor_value_info("big", TensorProto.FLOAT, [1 << 40])
            ),
            "long along an axis",
        ),
        (
            add_node("Constant", value=TensorProto(dims=[1 << 40], data_type=1)),
            "long along an axis",
        ),
    ],
)
def test_graphs_that_are_no_plain_arithmetic(model: Path, change: Change, message: str) -> None:
    refused(changed(model, change), message)


@pytest.mark.parametrize("change", [add_node("Relu"), add_weight(dims=[0]), add_weight(dims=[])])
def test_what_is_allowed(tmp_path: Path, change: Change) -> None:
    """So that the refusals above are of what they name."""
    path = changed(write_rgbd_model(tmp_path / "a.onnx"), change)
    if "weight" in {tensor.name for tensor in onnx.load(path).graph.initializer}:
        changed(path, lambda model: model.graph.initializer[0].float_data.append(1.0))
    assert header_from_onnx(path).opset == 17


def field(number: int, content: bytes) -> bytes:
    """A length-delimited field of less than 128 bytes."""
    return bytes([number << 3 | 2, len(content)]) + content


def nested(depth: int) -> bytes:
    """A node whose attribute holds a graph whose node does, and so on; written by hand."""
    inside = b""
    for _ in range(depth):
        for field in (0x32, 0x2A, 0x0A):  # AttributeProto.g, NodeProto.attribute, GraphProto.node
            size, length = len(inside), b""
            while size > 127:
                length += bytes([size & 127 | 128])
                size >>= 7
            inside = bytes([field]) + length + bytes([size]) + inside
    return inside


def test_ten_thousand_graphs_in_each_other(tmp_path: Path) -> None:
    path = tmp_path / "deep.onnx"
    content = nested(10_000)
    length = len(content)
    path.write_bytes(
        b"\x3a" + bytes([length & 127 | 128, length >> 7 & 127 | 128, length >> 14]) + content
    )
    refused(path, "an operator holds graphs")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (field(7, b"\x0a\xff\xff\xff\xff\x07"), "ends after what it is part of"),
        (field(7, b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"), "ends after"),  # negative
        (field(7, b"\x0a" + b"\xff" * 11), "more than 64 bits"),
        (field(7, b"\x08\x05"), "neither text nor a message"),
        # An operator's name as a number: other readers would pass over it, and take the first.
        (field(7, field(1, field(4, b"Evil") + b"\x20\x03Add")), "neither text nor a message|type"),
        (field(8, b"\x10\x11") + field(7, field(1, field(4, b"Add"))) * 2, "it holds 2 graph"),
        (
            field(7, field(1, field(5, field(5, b"\x08\x00\x10\x01") * 2) + field(4, b"Add"))),
            "an attribute is stated twice",
        ),
        (b"\x38\x01", "neither text nor a message"),
    ],
)
def test_messages_that_readers_take_differently(
    tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "odd.onnx"
    path.write_bytes(content)
    refused(path, message)


def test_millions_of_fields(tmp_path: Path) -> None:
    path = tmp_path / "many.onnx"
    path.write_bytes(b"\x08\x08" * 3_000_000)
    refused(path, "more than 1000000 fields")


@pytest.mark.parametrize(
    "part", [b"\x12\x00" * 60, field(5, b"\x08\x01" * 55), field(5, b"\x0a<" + b"\1" * 60)]
)
def test_parts_of_a_graph_count_as_fields(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: bytes
) -> None:
    """Names of the graph, sizes of a weight, and such sizes packed."""
    monkeypatch.setattr(mfnet_runtime.backends.onnx_reader, "MAX_FIELDS", 50)
    path = tmp_path / "many.onnx"
    path.write_bytes(field(7, part))
    refused(path, "more than 50 fields")


def test_more_operators_than_any_network(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mfnet_runtime.backends.onnx_validation, "MAX_NODES", 3)
    for output in "abc":
        changed(model, add_node("Relu", output=output))
    refused(model, "more than 3 operators")


def test_longer_than_protobuf_can_be(tmp_path: Path) -> None:
    path = tmp_path / "long.onnx"
    path.touch()
    os.truncate(path, 1 << 32)  # takes no disk
    refused(path, f"{1 << 32} bytes; no such file is longer")


def with_weights_beside(path: Path, location: str, size: int, **entries: object) -> Path:
    """The model, with one weight of `size` numbers in another file."""
    tensor = TensorProto(name="weight", data_type=TensorProto.FLOAT, dims=[size])
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=str(value))
    return changed(path, lambda model: model.graph.initializer.append(tensor))


def test_weights_beside_though_they_fit(model: Path) -> None:
    (model.parent / "rgbd.onnx.data").write_bytes(bytes(400))
    refused(
        with_weights_beside(model, "rgbd.onnx.data", 100),
        "400 bytes, are in another file though they fit into this",
    )


LARGE = 1 << 29  # numbers of 4 bytes: 2 GiB


@pytest.mark.parametrize(
    "location",
    ["../rgbd.onnx.data", "/etc/passwd", "below/rgbd.onnx.data", "other.data", "", "*/_ORT_MEM_"],
)
def test_weights_in_another_file_than_the_one_beside(model: Path, location: str) -> None:
    refused(with_weights_beside(model, location, LARGE), "weights are in .*; expected 'rgbd.onnx")


def test_weights_beside(model: Path, tmp_path: Path) -> None:
    data = model.with_name("rgbd.onnx.data")
    with_weights_beside(model, data.name, LARGE)
    refused(model, r"rgbd\.onnx\.data is a link, or no file")
    data.touch()
    refused(model, "is cut short")
    os.truncate(data, 4 * LARGE)
    assert header_from_onnx(model).opset == 17
    data.rename(tmp_path / "secret")
    data.symlink_to(tmp_path / "secret")
    refused(model, "is a link, or no file")
    data.unlink()
    os.link(tmp_path / "secret", data)
    refused(model, "is a link, or no file")


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"offset": -4}, "is cut short"),
        ({"offset": 4}, "is cut short"),
        ({"offset": "four"}, "invalid literal"),
        ({"length": 4}, "is not as large as it says"),
    ],
)
def test_weights_beside_that_are_not_there(
    model: Path, entries: dict[str, object], message: str
) -> None:
    data = model.with_name("rgbd.onnx.data")
    data.touch()
    os.truncate(data, 4 * LARGE)
    refused(with_weights_beside(model, data.name, LARGE, **entries), message)


def test_operators_are_standard_and_hold_no_graph() -> None:
    """The list is a list of ONNX's own operators, none of which could hide another."""
    schemas = {schema.name: schema for schema in onnx.defs.get_all_schemas()}
    newer = {"Attention", "RMSNormalization"}  # than the oldest onnx package that is allowed
    assert set(OPERATORS) - newer <= set(schemas)
    graphs = {onnx.defs.OpSchema.AttrType.GRAPH, onnx.defs.OpSchema.AttrType.GRAPHS}
    for name in OPERATORS & set(schemas):
        assert not graphs & {value.type for value in schemas[name].attributes.values()}, name


def contract_text(**changes: Any) -> str:
    return json.dumps({**Contract(32, RGBD).to_dict(), **changes})


def classes(*names: str) -> list[dict[str, Any]]:
    return [{"name": name, "colour": [0, 0, 0]} for name in names]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (contract_text(classes=classes("a", "b", "c", "\x1b[2Jd")), r"class name '\\x1b\[2Jd'"),
        (contract_text(classes=classes("a\0", "b", "c", "d")), "class name 'a"),
        (contract_text(classes=classes("a", "b", "c", "\u202ed")), "class name"),
        (contract_text(classes=classes("x" * 65, "b", "c", "d")), "1 to 64 printable"),
        (contract_text(classes=classes("x" * (1 << 19))), "1 to 64 printable"),
        (contract_text(classes=classes("a", "b", "c", "a")), "class names repeat"),
        (contract_text(classes=classes(*map(str, range(256)))), "has 256 names"),
        (contract_text(classes=[{"name": "a", "colour": [float("inf"), 0, 0]}]), "no number"),
        (contract_text(classes=[{"name": "a", "colour": [1e999, 0, 0]}]), "Infinity is no number"),
        (contract_text(format="\x1b" * 5000), "contract has format"),
        (contract_text(precision="\x1b" * 5000), "precision"),
        (contract_text(dsm={"rule": "x" * 5000, "low": 0, "high": 1}), "DSM rule 'xxx"),
        (contract_text(dsm={"rule": "range", "low": 0, "high": 0}), "is not below"),
        (contract_text(dsm={"rule": "range", "low": float("nan"), "high": 1}), "NaN is no number"),
        (contract_text(dsm={"rule": "range", "low": "nan", "high": 1}), "is not below"),
        (contract_text(image={"bands": list("rgb"), "full_scale": 0}), "full scale is 0"),
        (contract_text(image={"bands": ["r", "g", "\x07"], "full_scale": 1}), "band name"),
        (contract_text(window=32.5), "malformed"),
        (contract_text(window="32" * 4000), "malformed"),
        (contract_text(provenance={"a": "x" * (1 << 20)}), "at most 1048576 are read"),
        (contract_text(provenance=None)[:-5] + "[" * 10_000 + "]" * 10_000 + "}", "too deep"),
        (contract_text(provenance=None)[:-5] + "[" * 40 + "]" * 40 + "}", "deeper than 32"),
        (contract_text()[:-1] + ', "window": 64}', "'window' is there twice"),
        (contract_text(window=10**400), "window is"),
    ],
)
def test_contracts_that_mean_harm(model: Path, text: str, message: str) -> None:
    def exchange(found: ModelProto) -> None:
        del found.metadata_props[:]
        helper.set_model_props(found, {METADATA_KEY: text})

    refused(changed(model, exchange), message)


def test_two_contracts(model: Path) -> None:
    def double(found: ModelProto) -> None:
        found.metadata_props.add(key=METADATA_KEY, value=contract_text())

    refused(changed(model, double), r"'mfnet\.contract' is in its metadata twice")


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A model with a weight."""
    path = write_rgbd_model(tmp_path_factory.mktemp("sound") / "rgbd.onnx")
    weight = numpy_helper.from_array(np.ones((4, 2), np.float32), "weight")
    return changed(path, lambda model: model.graph.initializer.append(weight)).read_bytes()


@settings(max_examples=30)
@given(flips=st.dictionaries(st.integers(0, 2000), st.integers(0, 255), min_size=1, max_size=6))
def test_flipped_bytes(
    sound: bytes, tmp_path_factory: pytest.TempPathFactory, flips: dict[int, int]
) -> None:
    """Whatever is changed in a file, its header is read or refused; no engine is asked."""
    path = tmp_path_factory.mktemp("flipped") / "rgbd.onnx"
    content = bytearray(sound)
    for place, value in flips.items():
        content[place % len(content)] = value
    path.write_bytes(content)
    try:
        header_from_onnx(path)
    except ModelError as fault:
        assert str(fault).startswith(f"{path}: ")  # noqa: PT017
