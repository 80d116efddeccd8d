"""Faults of ONNX files: M5 to M12."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import onnx
from faults.cell import Cell
from faults.checkpoints import cut_in_half
from faults.workplace import Workplace
from onnx import ModelProto, NodeProto, TensorProto, helper
from support import RGBD

from mfnet_runtime.contract import METADATA_KEY, Contract

Plant = Callable[[Workplace], Any]
Change = Callable[[ModelProto], object]


def model(fault: str, what: str, says: str, plant: Plant) -> Cell:
    result, parts = (
        "model refused before an engine sees it",
        ("rgbd.onnx: ", says, "export it again"),
    )
    memory = 2 << 30  # bytes; a file of a kilobyte can ask for terabytes
    return Cell(fault, what, 3, result, plant, parts, memory=memory)


def changed(change: Change) -> Plant:
    def plant(place: Workplace) -> None:
        proto = onnx.load(place.model)
        change(proto)
        onnx.save(proto, place.model)

    return plant


def graph(fault: str, what: str, says: str, change: Change) -> Cell:
    return model(fault, what, says, changed(change))


def by_engine(fault: str, what: str, change: Change) -> Cell:
    cell = graph(fault, what, "cannot load it", change)
    return replace(cell, result="model refused by the engine")


def nodes(*made: NodeProto) -> Change:
    """Nodes that make the logits of the model's own, called `joined`."""

    def change(proto: ModelProto) -> None:
        proto.graph.node[0].output[0] = "joined"
        proto.graph.node.extend(made)

    return change


def weight(*dims: int) -> Change:
    """A weight that the logits depend on: engines drop others."""
    tensor = TensorProto(name="weight", data_type=TensorProto.FLOAT, dims=dims, raw_data=b"1234")

    def change(proto: ModelProto) -> None:
        proto.graph.initializer.append(tensor)
        mean = helper.make_node("ReduceMean", ["weight"], ["mean"], keepdims=0)
        nodes(mean, helper.make_node("Add", ["joined", "mean"], ["logits"]))(proto)

    return change


def weights_in(location: str, link: str = "") -> Plant:
    """Weights of 2 GiB in another file, a secret."""

    def plant(place: Workplace) -> None:
        beside, secret = place.root / "rgbd.onnx.data", place.root / "secret"
        secret.touch()
        os.truncate(secret, 1 << 31)  # takes no disk
        place.secrets.append(secret)
        if link == "symlink":
            beside.symlink_to(secret)
        elif link == "hardlink":
            os.link(secret, beside)
        elif link == "folder":
            (place.root / "below").symlink_to(place.root)
        tensor = TensorProto(name="weight", data_type=TensorProto.FLOAT, dims=[1 << 29])
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=location.format(secret=secret))
        changed(lambda proto: proto.graph.initializer.append(tensor))(place)

    return plant


def nested(depth: int) -> bytes:
    """A model of graphs inside each other, by hand: Python's protobuf ends at a hundred."""
    inside = b""
    for _ in range(depth):
        for key in (0x32, 0x2A, 0x0A):  # AttributeProto.g, NodeProto.attribute, GraphProto.node
            inside = bytes([key]) + varint(len(inside)) + inside
    return b"\x3a" + varint(len(inside)) + inside


def varint(number: int) -> bytes:
    found = []
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    return bytes([*found, number])


def renamed_input(proto: ModelProto) -> None:
    proto.graph.input[0].name = proto.graph.node[0].input[0] = "picture"


def other_type(proto: ModelProto) -> None:
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.elem_type = TensorProto.DOUBLE


def other_channels(proto: ModelProto) -> None:
    proto.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 4
    proto.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 5


def contract(text: str = "", **fields: Any) -> Change:
    """Another contract: a text, or some other fields."""
    whole = text or json.dumps({**Contract(32, RGBD).to_dict(), **fields})

    def change(proto: ModelProto) -> None:
        del proto.metadata_props[:]
        helper.set_model_props(proto, {METADATA_KEY: whole})

    return change


def classes(*names: str) -> Change:
    return contract(classes=[{"name": name, "colour": [0, 0, 0]} for name in names])


def scale(value: float) -> Change:
    return contract(image={"bands": ["red", "green", "blue"], "full_scale": value})


SOUND = json.dumps(Contract(32, RGBD).to_dict())[:-1]
DEEP = "[" * 10_000 + "]" * 10_000
NO_ONNX, IMPLIES = "not a usable ONNX file", "its contract implies"
CELLS = (
    *(
        model("M5", f"weights of 2 GiB in {what}", says, weights_in(location, link))
        for what, location, link, says in (
            ("../", "../secret", "", "expected 'rgbd.onnx.data'"),
            ("an absolute path", "{secret}", "", "expected 'rgbd.onnx.data'"),
            ("a folder below, a link", "below/secret", "folder", "expected 'rgbd.onnx.data'"),
            ("a symbolic link", "rgbd.onnx.data", "symlink", "a link"),
            ("a hard link", "rgbd.onnx.data", "hardlink", "a link"),
        )
    ),
    by_engine("M6", "weight of 2^40 numbers", weight(1 << 40)),
    by_engine("M6", "weight of -4 numbers", weight(-4)),
    by_engine("M6", "weight of 2^60 numbers with 4 bytes", weight(1 << 30, 1 << 30)),
    model("M6", "part of negative length", NO_ONNX,
          lambda place: place.model.write_bytes(b"\x3a" + b"\xff" * 9 + b"\x01")),
    model("M6", "10,000 graphs in each other", "opset unknown",
          lambda place: place.model.write_bytes(nested(10_000))),
    by_engine("M6", "cyclic graph", nodes(
        helper.make_node("Add", ["joined", "sum"], ["sum"]),
        helper.make_node("Identity", ["sum"], ["logits"]))),
    by_engine("M7", "operator of another domain", nodes(
        helper.make_node("Evil", ["joined"], ["logits"], domain="com.example"))),
    graph("M7", "unknown opset", "opset 99",
          lambda proto: setattr(proto.opset_import[0], "version", 99)),
    model("M8", "ONNX file cut in half", NO_ONNX, lambda place: cut_in_half(place.model)),
    model("M8", "text named .onnx", NO_ONNX,
          lambda place: place.model.write_text("no model")),
    graph("M11", "an input of another name", IMPLIES, renamed_input),
    graph("M11", "inputs of another type", IMPLIES, other_type),
    graph("M11", "other channels", IMPLIES, other_channels),
    graph("M11", "a class too few in the contract", IMPLIES, classes("a", "b", "c")),
    graph("M12", "10 MB class name", "the limit is", classes("x" * 10_000_000, *"bcd")),
    graph("M12", "ANSI escape in a class name", "printable", classes("\x1b[2J", *"bcd")),
    graph("M12", "NUL in a class name", "printable", classes("a\0", *"bcd")),
    graph("M12", "a key twice", "'window' is there twice", contract(SOUND + ', "window": 64}')),
    graph("M12", "NaN as scale", "NaN is not a number", scale(float("nan"))),
    graph("M12", "0 as scale", "full scale is 0", scale(0)),
    graph("M12", "JSON 10,000 deep", "too deep", contract(SOUND + f', "a": {DEEP}}}')),
    Cell("M12", "markup and ../ as class names", 0, "segmented: names are text, and name no file",
         changed(classes("<script>alert(1)</script>", "../../x", "=1+1", "d"))),
)  # fmt: skip
