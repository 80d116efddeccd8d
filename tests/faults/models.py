"""Faults of model files: M5 to M8, M11, M12."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import onnx
from faults.cell import Cell
from faults.workplace import Workplace
from onnx import ModelProto, TensorProto, helper
from support import RGBD

from mfnet_runtime.contract import METADATA_KEY, Contract

Change = Callable[[ModelProto], object]
REFUSED = "model refused before an engine sees it"
MEMORY = 2 << 30  # bytes; a file of a kilobyte can ask for terabytes
REMEDY = "export it again"


def changed(change: Change) -> Callable[[Workplace], None]:
    def plant(place: Workplace) -> None:
        model = onnx.load(place.model)
        change(model)
        onnx.save(model, place.model)

    return plant


def refused(fault: str, what: str, says: str, plant: Callable[[Workplace], Any]) -> Cell:
    return Cell(fault, what, 3, REFUSED, plant, ("rgbd.onnx: ", says, REMEDY), memory=MEMORY)


def graph(fault: str, what: str, says: str, change: Change) -> Cell:
    return refused(fault, what, says, changed(change))


def unlike_its_contract(what: str, change: Change) -> Cell:
    return replace(
        graph("M11", what, "its contract implies", change), result="model refused, both named"
    )


def node(operator: str, domain: str = "", **attributes: Any) -> Change:
    made = helper.make_node(operator, ["image"], ["new"], domain=domain, **attributes)
    return lambda model: model.graph.node.append(made)


def weights_in(location: str, link: str = "") -> Callable[[Workplace], None]:
    """Weights of 2 GiB in another file, so that being beside is no fault; it holds a secret."""

    def plant(place: Workplace) -> None:
        secret = place.root / "secret"
        secret.touch()
        os.truncate(secret, 1 << 31)  # takes no disk
        place.secrets.append(secret)
        beside = place.root / "rgbd.onnx.data"
        if link == "symlink":
            beside.symlink_to(secret)
        elif link == "hardlink":
            os.link(secret, beside)
        elif link == "folder":
            (place.root / "below").symlink_to(place.root)
        tensor = TensorProto(name="weight", data_type=TensorProto.FLOAT, dims=[1 << 29])
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=location.format(secret=secret))
        changed(lambda model: model.graph.initializer.append(tensor))(place)

    return plant


def small_weights_beside(place: Workplace) -> None:
    place.secrets.append(place.root / "rgbd.onnx.data")
    place.secrets[0].write_bytes(bytes(400))
    tensor = TensorProto(name="weight", data_type=TensorProto.FLOAT, dims=[100])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="rgbd.onnx.data")
    changed(lambda model: model.graph.initializer.append(tensor))(place)


def weight(*dims: int) -> Change:
    tensor = TensorProto(name="weight", data_type=TensorProto.FLOAT, dims=dims, raw_data=b"1234")
    return lambda model: model.graph.initializer.append(tensor)


def nested(depth: int) -> bytes:
    """A model of graphs in each other, by hand: Python's protobuf ends at a hundred."""
    inside = b""
    for _ in range(depth):
        for key in (0x32, 0x2A, 0x0A):  # AttributeProto.g, NodeProto.attribute, GraphProto.node
            inside = bytes([key]) + length(inside) + inside
    return b"\x3a" + length(inside) + inside


def length(content: bytes) -> bytes:
    """As protobuf writes it."""
    size, found = len(content), []
    while size > 127:
        found.append(size & 127 | 128)
        size >>= 7
    return bytes([*found, size])


def negative_length(place: Workplace) -> None:
    place.model.write_bytes(b"\x3a" + b"\xff" * 9 + b"\x01")


def in_a_circle(model: ModelProto) -> None:
    model.graph.node.add(op_type="Add", input=["sum", "image"], output=["sum"])


def truncated(place: Workplace) -> None:
    content = place.model.read_bytes()
    place.model.write_bytes(content[: len(content) // 2])


def renamed_input(model: ModelProto) -> None:
    model.graph.input[0].name = model.graph.node[0].input[0] = "picture"


def other_type(model: ModelProto) -> None:
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = TensorProto.DOUBLE


def other_channels(model: ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 4
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 5


def contract(text: str) -> Change:
    """Another text in the place of the contract."""

    def change(model: ModelProto) -> None:
        del model.metadata_props[:]
        helper.set_model_props(model, {METADATA_KEY: text})

    return change


def facts(**changes: Any) -> str:
    return json.dumps({**Contract(32, RGBD).to_dict(), **changes})


def classes(*names: str) -> str:
    return facts(classes=[{"name": name, "colour": [0, 0, 0]} for name in names])


def scale(value: float) -> str:
    return facts(image={"bands": ["red", "green", "blue"], "full_scale": value})


DEEP = "[" * 10_000 + "]" * 10_000
BRANCH = helper.make_graph([], "branch", [], [])
CELLS = (
    *(
        refused("M5", f"weights of 2 GiB in {what}", says, weights_in(location, link))
        for what, location, link, says in (
            ("../", "../secret", "", "expected 'rgbd.onnx.data'"),
            ("an absolute path", "{secret}", "", "expected 'rgbd.onnx.data'"),
            ("a folder below, a link", "below/secret", "folder", "expected 'rgbd.onnx.data'"),
            ("a symbolic link", "rgbd.onnx.data", "symlink", "is a link"),
            ("a hard link", "rgbd.onnx.data", "hardlink", "is a link"),
        )
    ),
    refused("M5", "small weights in another file", "though they fit", small_weights_beside),
    graph("M6", "weight of 2^40 numbers", "long along an axis", weight(1 << 40)),
    graph("M6", "weight of -4 numbers", "-4 long along an axis", weight(-4)),
    graph("M6", "weight of 2^60 numbers with 4 bytes", "has other data", weight(1 << 30, 1 << 30)),
    refused("M6", "part of negative length", "not an ONNX file", negative_length),
    refused(
        "M6", "10,000 graphs in each other", "holds graphs",
        lambda place: place.model.write_bytes(nested(10_000)),
    ),
    graph("M6", "cyclic graph", "in a circle", in_a_circle),
    graph("M7", "operator of another domain", "com.example", node("Evil", "com.example")),
    graph("M7", "operator that holds a graph", "holds graphs", node("Add", body=BRANCH)),
    graph(
        "M7", "unknown opset", "opset 99",
        lambda model: setattr(model.opset_import[0], "version", 99),
    ),
    refused("M8", "ONNX file cut in half", "not an ONNX file", truncated),
    refused("M8", "text named .onnx", "not an ONNX file",
            lambda place: place.model.write_text("no model")),
    unlike_its_contract("an input of another name", renamed_input),
    unlike_its_contract("inputs of another type", other_type),
    unlike_its_contract("other channels", other_channels),
    unlike_its_contract("a class too few in the contract", contract(classes("a", "b", "c"))),
    graph("M12", "10 MB class name", "are read", contract(classes("x" * 10_000_000, *"bcd"))),
    graph("M12", "ANSI escape in a class name", "printable", contract(classes("\x1b[2J", *"bcd"))),
    graph("M12", "NUL in a class name", "printable", contract(classes("a\0", "b", "c", "d"))),
    graph(
        "M12", "a key twice", "'window' is there twice", contract(facts()[:-1] + ', "window": 64}')
    ),
    graph("M12", "NaN as scale", "NaN is no number", contract(scale(float("nan")))),
    graph("M12", "0 as scale", "full scale is 0", contract(scale(0))),
    graph("M12", "JSON 10,000 deep", "too deep", contract(facts()[:-1] + f', "a": {DEEP}}}')),
    Cell(
        "M12", "markup and ../ as class names", 0, "segmented: names are text, and name no file",
        changed(contract(classes("<script>alert(1)</script>", "../../x", "=1+1", "d"))),
        check=lambda place, _: None,
    ),
)  # fmt: skip
