"""An ONNX file read without the onnx package: its opset and metadata, once its graph is allowed.

An ONNX file is a protobuf `ModelProto`; weights stay on the disk. Knows nothing about networks.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mfnet_runtime.backends.onnx_reader import Field, MessageFile
from mfnet_runtime.backends.onnx_validation import (
    STANDARD,
    require_plain_graph,
    require_plain_model,
)
from mfnet_runtime.errors import ModelError

# Field numbers of onnx.proto: ModelProto and OperatorSetIdProto.
GRAPH, OPSETS, METADATA = 7, 8, 14
DOMAIN, VERSION = 1, 2
LARGEST = (1 << 31) - 1  # bytes of a file: protobuf's own limit
MAX_ENTRY = 1 << 24  # bytes of metadata under one key


@dataclass(frozen=True)
class OnnxHeader:
    """What an ONNX file says about itself beside its graph."""

    opset: int  # of the standard operators
    metadata: dict[str, str]


def header_from_onnx(path: Path) -> OnnxHeader:
    """Opset and metadata of a file whose graph an engine may be given; takes well under a second.

    Raises:
        ModelError: not an ONNX file, cut short, or its graph is not allowed (see `onnx_graph`).
    """
    opset, graphs = 0, 0
    metadata: dict[str, str] = {}
    try:
        size = path.stat().st_size
        if size > LARGEST:
            raise ValueError(f"{size} bytes; no such file is longer than {LARGEST}")
        with path.open("rb") as file:
            message = MessageFile(file, size)
            for part in message.fields():
                require_plain_model(part.number)
                if part.number == GRAPH:
                    graphs += 1
                    require_plain_graph(path, message, part)
                elif part.number == OPSETS:
                    domain, version = _opset(message, part)
                    opset = version if domain in STANDARD else opset
                elif part.number == METADATA:
                    key, text = message.entry(part, MAX_ENTRY)
                    if key in metadata:
                        raise ValueError(f"{key[:60]!r} is in its metadata twice")
                    metadata[key] = text
    except (ValueError, EOFError, OSError) as fault:
        raise ModelError(
            f"{path}: not an ONNX file to be run here: {fault}; export it again with mfnet-export"
        ) from fault
    if graphs != 1 or not opset:
        raise ModelError(
            f"{path}: not an ONNX file: it holds {graphs or 'no'} graph, opset {opset or 'unknown'}"
            "; export it again with mfnet-export"
        )
    return OnnxHeader(opset, metadata)


def _opset(message: MessageFile, entry: Field) -> tuple[str, int]:
    domain, version = "", 0
    for part in message.inside(entry):
        if part.number == DOMAIN:
            domain = message.text(part, MAX_ENTRY)
        elif part.number == VERSION:
            version = part.known()
    return domain, version
