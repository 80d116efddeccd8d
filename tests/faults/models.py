"""Faults of models: checkpoints that mfnet-export reads, M1 to M4, and ONNX files, M5 to M12."""

from __future__ import annotations

import json
import os
import pickle
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import onnx
import torch
from faults.cell import Cell
from faults.workplace import Workplace
from networks import random_network
from onnx import ModelProto, NodeProto, TensorProto, helper
from support import RGBD
from torch import Tensor

from mfnet.checkpoints.checkpoint import FORMAT
from mfnet_runtime.contract import METADATA_KEY, Contract
from mfnet_runtime.labels import ClassTable

Plant = Callable[[Workplace], Any]
Change = Callable[[ModelProto], object]

# --- checkpoints ---------------------------------------------------------------------------------


@cache
def content() -> dict[str, Any]:
    """A sound checkpoint; not to be changed."""
    network = random_network("lora", window=32, classes=4)
    return {
        "format": FORMAT,
        "config": network.config.to_dict(),
        "contract": Contract(32, ClassTable.numbered(4)).to_dict(),
        "weights": network.state_dict(),
        "training": {},
        "metrics": {},
    }


class Canary:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self._path}",)


def save(place: Workplace, data: Any = None, **more: Any) -> Path:
    place.checkpoint = place.root / "best.pt"
    torch.save(content() if data is None else data, place.checkpoint, **more)
    return place.checkpoint


def checkpoint(fault: str, what: str, says: str, plant: Plant) -> Cell:
    def check(place: Workplace, _: object) -> None:
        assert not (place.root / "canary").exists()
        assert not list(place.root.glob("*best.onnx*"))

    result, parts = "checkpoint refused, nothing written", ("best.pt", says)
    memory = 640 << 20  # bytes; PyTorch itself takes 400 MiB
    return Cell(fault, what, 3, result, plant, parts, check, exports=True, memory=memory)


def weight_replaced(what: str, says: str, change: Callable[[str, Tensor], dict[str, Any]]) -> Cell:
    """Something else in place of the first matrix of the weights."""

    def plant(place: Workplace) -> None:
        weights = dict(content()["weights"])
        name = next(name for name, value in weights.items() if value.ndim == 2)
        value = weights.pop(name)
        save(place, {**content(), "weights": {**weights, **change(name, value)}})

    return checkpoint("M3", what, says, plant)


def flipped_bit(place: Workplace) -> None:
    path = save(place)
    with zipfile.ZipFile(path) as parts:
        largest = max(parts.infolist(), key=lambda part: part.file_size)
        whole = bytearray(path.read_bytes())
        whole[whole.index(parts.read(largest)) + largest.file_size // 2] ^= 16
    path.write_bytes(whole)


def evil(place: Workplace) -> dict[str, Canary]:
    return {"weights": Canary(place.root / "canary")}


def many_pickles(place: Workplace) -> None:
    """Each of which the format before 1.6 reads."""
    save(place).write_bytes(pickle.dumps(Canary(place.root / "canary"), protocol=2) * 5)


def bomb(place: Workplace) -> None:
    """A quarter of a million bytes that unpack to 256 MiB."""
    plain = save(place)
    place.checkpoint = place.root / "bomb" / "best.pt"
    place.checkpoint.parent.mkdir()
    with zipfile.ZipFile(plain) as parts, zipfile.ZipFile(place.checkpoint, "w") as packed:
        for part in parts.infolist():
            kept = part.file_size < 1 << 16
            data = parts.read(part) if kept else bytes(256 << 20)
            packed.writestr(part.filename, data, zipfile.ZIP_DEFLATED, 1)
            if not kept:
                break


def quantised(name: str, value: Tensor) -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # newer versions deprecate it
        return {name: torch.quantize_per_tensor(value, 0.1, 0, torch.qint8)}


# --- ONNX files ----------------------------------------------------------------------------------


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


def cut_in_half(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


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
NO_ONNX, AGAIN, IMPLIES = "not a usable ONNX file", "copy it again", "its contract implies"
CELLS = (
    checkpoint("M1", "checkpoint cut in half", AGAIN, lambda place: cut_in_half(save(place))),
    checkpoint("M1", "checkpoint of 0 bytes", AGAIN, lambda place: os.truncate(save(place), 0)),
    checkpoint("M1", "one bit of a weight flipped", "CRC-32 of", flipped_bit),
    checkpoint("M2", "os.system in a checkpoint", "tensors and plain types",
               lambda place: save(place, {**content(), **evil(place)})),
    checkpoint("M2", "os.system in many pickles", AGAIN, many_pickles),
    checkpoint("M2", "os.system in the format before 1.6", AGAIN,
               lambda place: save(place, evil(place), _use_new_zipfile_serialization=False)),
    weight_replaced("a weight missing", "missing", lambda name, value: {}),
    weight_replaced("a weight too many", "expected none",
                    lambda name, value: {name: value, "b": value}),
    weight_replaced("a weight of another shape", "(1, ", lambda name, value: {name: value[None]}),
    weight_replaced("a sparse weight", "is not a dense tensor",
                    lambda name, value: {name: value.to_sparse()}),
    weight_replaced("a quantised weight", AGAIN, quantised),
    weight_replaced("a weight without values (meta)", AGAIN,
                    lambda name, value: {name: value.to("meta")}),
    weight_replaced("NaN in a weight", "weights hold NaN",
                    lambda name, value: {name: value * float("nan")}),
    checkpoint("M4", "checkpoint that unpacks to 256 MiB", "unpacks to more", bomb),
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
    graph("M12", "10 MB class name", "are read", classes("x" * 10_000_000, *"bcd")),
    graph("M12", "ANSI escape in a class name", "printable", classes("\x1b[2J", *"bcd")),
    graph("M12", "NUL in a class name", "printable", classes("a\0", *"bcd")),
    graph("M12", "a key twice", "'window' is there twice", contract(SOUND + ', "window": 64}')),
    graph("M12", "NaN as scale", "NaN is no number", scale(float("nan"))),
    graph("M12", "0 as scale", "full scale is 0", scale(0)),
    graph("M12", "JSON 10,000 deep", "too deep", contract(SOUND + f', "a": {DEEP}}}')),
    Cell("M12", "markup and ../ as class names", 0, "segmented: names are text, and name no file",
         changed(classes("<script>alert(1)</script>", "../../x", "=1+1", "d"))),
)  # fmt: skip
