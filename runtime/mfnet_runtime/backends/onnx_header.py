"""The outermost fields of an ONNX file, read without its weights and without the onnx package.

An ONNX file is a protobuf `ModelProto`; only its opset and metadata are decoded here, the graph
is skipped. Knows nothing about networks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import IO

from mfnet_runtime.errors import ModelError

# Field numbers of onnx.proto: ModelProto, OperatorSetIdProto and StringStringEntryProto.
GRAPH, OPSETS, METADATA = 7, 8, 14
DOMAIN, VERSION = 1, 2
KEY, VALUE = 1, 2
SMALL = 1 << 24  # bytes; a longer metadata entry is a damaged file
Field = tuple[int, int | bytes]  # number and value


@dataclass(frozen=True)
class OnnxHeader:
    """What an ONNX file says about itself beside its graph."""

    opset: int  # of the standard operators
    metadata: dict[str, str]


def header_from_onnx(path: Path) -> OnnxHeader:
    """Opset and metadata of a file; takes milliseconds whatever its size.

    Raises:
        ModelError: not an ONNX file, or cut short.
    """
    opset, metadata, graph = 0, {}, False
    try:
        with path.open("rb") as file:
            for number, value in _fields(file, path.stat().st_size):
                if number == GRAPH:
                    graph = True
                elif number in (OPSETS, METADATA) and isinstance(value, bytes):
                    entry = dict(_fields_of(value))
                    if number == METADATA:
                        metadata[_text(entry.get(KEY))] = _text(entry.get(VALUE))
                    elif _text(entry.get(DOMAIN)) in ("", "ai.onnx"):
                        opset = int(entry.get(VERSION, 0))
    except (ValueError, EOFError) as fault:
        raise ModelError(
            f"{path}: not an ONNX file, or cut short ({fault}); export it again with mfnet-export"
        ) from fault
    if not graph or not opset:
        raise ModelError(
            f"{path}: not an ONNX file: it holds no graph; export it again with mfnet-export"
        )
    return OnnxHeader(opset, metadata)


def _fields(file: IO[bytes], size: int) -> Iterator[Field]:
    """Fields of a protobuf message that fills a file; those of the graph stay on the disk."""
    while file.tell() < size:
        tag = _varint(file)
        number, kind = tag >> 3, tag & 7
        if kind == 0:
            yield number, _varint(file)
            continue
        if kind not in (1, 2, 5) or not number:
            raise ValueError(f"field {number} of type {kind}")
        length = _varint(file) if kind == 2 else {1: 8, 5: 4}[kind]
        if length > size - file.tell():
            raise EOFError(f"field {number} ends after the file")
        if number in (OPSETS, METADATA):
            if length > SMALL:
                raise ValueError(f"field {number} has {length} bytes")
            yield number, file.read(length)
        else:
            file.seek(length, 1)
            yield number, b""


def _fields_of(message: bytes) -> Iterator[Field]:
    """Fields of a message of numbers and strings."""
    file = BytesIO(message)
    while file.tell() < len(message):
        tag = _varint(file)
        if tag & 7 == 0:
            yield tag >> 3, _varint(file)
        elif tag & 7 == 2:
            length = _varint(file)
            if length > len(message) - file.tell():
                raise EOFError("an entry ends after its message")
            yield tag >> 3, file.read(length)
        else:
            raise ValueError(f"entry of type {tag & 7}")


def _varint(file: IO[bytes]) -> int:
    value = 0
    for shift in range(0, 70, 7):
        byte = file.read(1)
        if not byte:
            raise EOFError("a number is cut short")
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
    raise ValueError("a number of more than 64 bits")


def _text(value: int | bytes | None) -> str:
    return value.decode("utf-8") if isinstance(value, bytes) else ""
