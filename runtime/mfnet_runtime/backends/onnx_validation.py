"""Whether an ONNX file may be given to an engine: its operators, its sizes, and where weights lie.

Walks over the whole graph without its weights and without the onnx package. An engine's own parser
is C++ written for files of one's own. What this does not know is what a graph computes: one that
is allowed may still take more memory or time than there is (mfnet-run --untrusted tries that out).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

from mfnet_runtime.backends.onnx_operators import OPERATORS
from mfnet_runtime.backends.onnx_reader import Field, MessageFile

# Field numbers of onnx.proto.
FUNCTIONS, TRAINING = 25, 20  # of ModelProto
NODE, INITIALIZER, INPUT, OUTPUT, VALUE, SPARSE = 1, 5, 11, 12, 13, 15  # of GraphProto
NODE_INPUT, NODE_OUTPUT, OP_TYPE, ATTRIBUTE, NODE_DOMAIN = 1, 2, 4, 5, 7  # of NodeProto
TENSOR, TENSORS = 5, 10  # of AttributeProto
NESTED = {6: "graphs", 11: "graphs", 21: "references", 22: "sparse", 23: "sparse"}
DIMS, DATA_TYPE, SEGMENT, RAW, EXTERNAL, TENSOR_NAME = 1, 2, 3, 9, 13, 8  # of TensorProto
TYPED = (4, 5, 7, 10, 11)  # its numbers, by type
VALUE_NAME = 1  # of ValueInfoProto
# From there to a size: type, tensor_type, shape, dim, dim_value.
TO_SIZE = (2, 1, 2, 1, 1)

BITS = {  # of a number, by TensorProto.DataType; text and complex numbers are none of them
    **dict.fromkeys((2, 3, 9, 17, 18, 19, 20, 24), 8),
    **dict.fromkeys((4, 5, 10, 16), 16),
    **dict.fromkeys((1, 6, 12), 32),
    **dict.fromkeys((7, 11, 13), 64),
    **dict.fromkeys((21, 22, 23), 4),
}
STANDARD = ("", "ai.onnx")
MAX_NODES = 50_000
MAX_SIZE = 1 << 31  # along an axis
MAX_NAME = 4096  # bytes
# Bytes of weights above which mfnet-export puts them into a file beside: protobuf ends at 2 GiB,
# 64 MiB are for the graph.
EXTERNAL_ABOVE = 2**31 - 2**26


@dataclass
class _Found:
    """What a walk over a graph collects."""

    made: set[str] = field(default_factory=lambda: {""})  # names; "" is an input left out
    given: list[list[str]] = field(default_factory=list)  # inputs of each node
    results: list[list[str]] = field(default_factory=list)  # outputs of each
    weights: int = 0  # bytes
    beside: list[tuple[str, int, int]] = field(default_factory=list)  # location, offset, bytes


def require_plain_model(number: int) -> None:
    """Refuse parts of a model that no network needs.

    Raises:
        ValueError: says which.
    """
    if number in (FUNCTIONS, TRAINING):
        what = "functions of its own" if number == FUNCTIONS else "a graph for training"
        raise ValueError(f"it holds {what}")


def require_plain_graph(path: Path, message: MessageFile, graph: Field) -> None:
    """Refuse a graph that is not plain arithmetic on tensors of bounded size.

    Args:
        path: Of the model, beside which weights may lie.
        message: The model.
        graph: The latest field of it.

    Raises:
        ValueError: says what was found; without the file's name.
        EOFError: cut short.
        OSError: weights beside the file cannot be read.
    """
    found = _Found()
    for part in message.inside(graph):
        if part.number == NODE:
            _take_node(message, part, found)
        elif part.number == INITIALIZER:
            found.made.add(_take_tensor(message, part, found))
        elif part.number in (INPUT, OUTPUT, VALUE):
            name = _take_value(message, part)
            if part.number == INPUT:
                found.made.add(name)
        elif part.number == SPARSE:
            raise ValueError("it holds sparse weights")
    _require_order(found)
    if found.beside:
        _require_beside(path, found)


def _take_node(message: MessageFile, node: Field, found: _Found) -> None:
    operator, domain = "", ""
    inputs: list[str] = []
    outputs: list[str] = []
    for part in message.inside(node):
        if part.number == NODE_INPUT:
            inputs.append(message.text(part, MAX_NAME))
        elif part.number == NODE_OUTPUT:
            outputs.append(message.text(part, MAX_NAME))
        elif part.number == OP_TYPE:
            operator = message.text(part, MAX_NAME)
        elif part.number == NODE_DOMAIN:
            domain = message.text(part, MAX_NAME)
        elif part.number == ATTRIBUTE:
            _take_attribute(message, part, found)
    if domain not in STANDARD:
        raise ValueError(f"it holds operator {operator[:60]!r} of domain {domain[:60]!r}")
    if operator not in OPERATORS:
        raise ValueError(f"it holds operator {operator[:60]!r}, which networks have no need of")
    if len(found.given) == MAX_NODES:
        raise ValueError(f"it holds more than {MAX_NODES} operators")
    found.given.append(inputs)
    found.results.append(outputs)


def _take_attribute(message: MessageFile, attribute: Field, found: _Found) -> None:
    single = 0
    for part in message.inside(attribute):
        if part.number in NESTED:
            raise ValueError(f"an operator holds {NESTED[part.number]}")
        if part.number in (TENSOR, TENSORS):
            single += part.number == TENSOR
            if single > 1:  # parsers would make one of both
                raise ValueError("an attribute is stated twice")
            _take_tensor(message, part, found)


def _take_tensor(message: MessageFile, tensor: Field, found: _Found) -> str:
    """The name of a tensor, whose sizes are those of its data."""
    name, bits, raw, typed = "", 0, None, 0
    dims: list[int] = []
    beside: dict[str, str] = {}
    for part in message.inside(tensor):
        if part.number == DIMS:
            dims += message.numbers(part)
        elif part.number == DATA_TYPE:
            bits = BITS.get(part.known(), 0)
        elif part.number == TENSOR_NAME:
            name = message.text(part, MAX_NAME)
        elif part.number == RAW:
            raw = part.length
        elif part.number in TYPED:
            typed += 8 if part.length is None else part.length
        elif part.number == EXTERNAL:
            key, value = message.entry(part, MAX_NAME)
            beside[key] = value
        elif part.number == SEGMENT:
            raise ValueError(f"weight {name[:60]!r} is in segments")
    for size in dims:
        _require_size(size)
    elements = math.prod(dims)
    size = (elements * bits + 7) // 8
    if not bits:
        raise ValueError(f"weight {name[:60]!r} holds no numbers")
    if beside:
        found.beside.append((beside.get("location", ""), int(beside.get("offset", 0)), size))
        if raw or typed or int(beside.get("length", size)) != size:
            raise ValueError(f"weight {name[:60]!r} is not as large as it says")
    elif raw != size if raw is not None else elements > 2 * typed:  # two of 4 bits in a byte
        raise ValueError(f"weight {name[:60]!r} says {dims}, and has other data")
    found.weights += size
    return name


def _take_value(message: MessageFile, value: Field) -> str:
    """The name of a value, whose sizes are bounded."""
    name = ""
    for part in message.inside(value):
        if part.number == VALUE_NAME:
            name = message.text(part, MAX_NAME)
        elif part.number == TO_SIZE[0]:
            _take_sizes(message, part, TO_SIZE[1:])
    return name


def _take_sizes(message: MessageFile, holder: Field, path: tuple[int, ...]) -> None:
    for part in message.inside(holder):
        if part.number == path[0] and path[1:]:
            _take_sizes(message, part, path[1:])
        elif part.number == path[0]:
            _require_size(part.known())


def _require_size(size: int) -> None:
    if size >= MAX_SIZE:  # a negative one is the largest of all, unsigned
        found = size - (1 << 64) if size >> 63 else size
        raise ValueError(f"a tensor is {found} long along an axis")


def _require_order(found: _Found) -> None:
    """Each node's inputs are made before it, as ONNX demands: there are no circles."""
    for inputs, outputs in zip(found.given, found.results, strict=True):
        unknown = [name for name in inputs if name not in found.made]
        if unknown:
            raise ValueError(f"nothing before it makes {unknown[0][:60]!r}, or it is in a circle")
        found.made.update(outputs)


def _require_beside(path: Path, found: _Found) -> None:
    """Weights beside the file: only where they do not fit into it, and in the one file for it."""
    expected = f"{path.name}.data"
    if found.weights <= EXTERNAL_ABOVE:
        raise ValueError(
            f"its weights, {found.weights} bytes, are in another file though they fit into this"
        )
    for location, offset, size in found.beside:
        if location != expected:
            raise ValueError(f"weights are in {location[:60]!r}; expected {expected!r}")
        if not 0 <= offset <= offset + size <= _own_size(path.with_name(expected)):
            raise ValueError(f"{expected} is cut short")


def _own_size(path: Path) -> int:
    """Bytes of a file that is no other's under a second name."""
    if path.is_symlink() or not path.is_file() or path.stat().st_nlink > 1:
        raise ValueError(f"{path.name} is a link, or no file")
    return path.stat().st_size
