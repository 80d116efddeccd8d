"""Read the contract of an ONNX file and check where its weights are, without an engine.

An ONNX file is a `ModelProto` in the Protocol Buffers wire format. Only field tags and the few
short fields needed are read; weights stay on disk. The engines check everything else themselves
(docs/SECURITY.md lists what they refuse); external data is checked here because ONNX Runtime
before 1.24 opens any file a model names.
"""

from __future__ import annotations

import errno
import mmap
from collections.abc import Iterator
from pathlib import Path

from mfnet_runtime.contract import METADATA_KEY, Contract
from mfnet_runtime.errors import ModelError, ResourceError, UsageError

OPSETS = range(13, 24)  # OpenVINO accepts later ones silently and may read them wrongly
FLOATS = (None, "fp32", "bf16")
GPU_ONLY = {
    "fp16": "an FP16 file runs thousands of times too slowly on a CPU; run the FP32 file, or on a "
    "GPU build a plan: mfnet-export --onnx {} --plan, or use --device cuda "
    "(pip install onnxruntime-gpu)",
    "int8+fp16": "an INT8 file with FP16 parts does not run on a CPU; run the INT8 file, or on a "
    "GPU build a plan: mfnet-export --onnx {} --plan",
    "bf16": "a BF16 file does not run on a CPU; export in FP32 and run it with --precision bf16",
}
MAX_FILE = (1 << 31) - 1  # bytes, the limit of Protocol Buffers; OpenVINO hangs on larger files
MAX_FIELDS = 1_000_000  # seconds of work here; a network of 1000 operators has about 30,000
MAX_TEXT = 1 << 24  # bytes
# Messages that may hold external data, the operator set or metadata: field number to message, as
# in onnx.proto.
MESSAGES = {
    "model": {7: "graph", 8: "opset", 14: "metadata", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "external"},
}


def contract_from_onnx(path: Path, precision: str | None) -> Contract:
    """Read the contract of a file that is to run on a CPU.

    Args:
        path: The ONNX file.
        precision: Requested precision of floating-point operations.

    Raises:
        ModelError: see `contract_in_onnx`; or the file is in `GPU_ONLY`.
        UsageError: unknown precision.
    """
    require_known(precision)
    contract = contract_in_onnx(path)
    if contract.precision in GPU_ONLY:
        raise ModelError(f"{path}: {GPU_ONLY[contract.precision].format(path.name)}")
    return contract


def require_known(precision: str | None) -> None:
    """Refuse a precision that no backend offers.

    Raises:
        UsageError: the message lists the known ones.
    """
    if precision not in FLOATS:
        raise UsageError(f"no precision named {precision!r}; choose fp32 or bf16")


def contract_in_onnx(path: Path) -> Contract:
    """Read the contract of any ONNX file.

    Raises:
        ModelError: the file is damaged, has an unsupported opset, no valid contract, or names
            external data other than `<file>.data` beside it.
        ResourceError: out of memory.
    """
    try:
        opset, text = _read(path)
    except (ValueError, IndexError, OSError) as fault:
        if isinstance(fault, OSError) and fault.errno == errno.ENOMEM:
            raise ResourceError(f"{path}: out of memory while reading it; free some") from fault
        raise ModelError(
            f"{path}: not a usable ONNX file: {fault}; export it again with mfnet-export"
        ) from fault
    if opset not in OPSETS:
        raise ModelError(
            f"{path}: ONNX opset {opset or 'unknown'}; this version runs {OPSETS[0]} to "
            f"{OPSETS[-1]}; export it again with mfnet-export"
        )
    if text is None:
        raise ModelError(
            f"{path}: ONNX file without an mfnet contract; export it with mfnet-export"
        )
    try:
        return Contract.from_json(text)
    except ModelError as fault:
        raise ModelError(f"{path}: {fault}; export it again with mfnet-export") from fault


def _read(path: Path) -> tuple[int, str | None]:
    """Return the opset and the text of the contract; check external data."""
    opset, contract = 0, None
    with path.open("rb") as file:
        if path.stat().st_size > MAX_FILE:
            raise ValueError(f"{path.stat().st_size} bytes; the format ends at {MAX_FILE}")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            for kind, span in _messages(data):
                if kind not in ("opset", "metadata", "external"):
                    continue
                (first, second), number = _values(data, span)
                if kind == "opset" and first in (b"", b"ai.onnx"):
                    opset = number
                elif kind == "metadata" and first == METADATA_KEY.encode():
                    contract = second.decode("utf-8")
                elif kind == "external" and first == b"location":
                    _require_beside(path, second)
    return opset, contract


def _require_beside(path: Path, location: bytes) -> None:
    """Refuse external data in any file but `<file>.data` beside the model, or behind a link."""
    beside = path.with_name(f"{path.name}.data")
    if location != beside.name.encode():
        raise ValueError(f"its weights are in {location!r:.80}; expected {beside.name!r}")
    if beside.is_symlink() or not beside.is_file() or beside.stat().st_nlink > 1:
        raise ValueError(f"{beside.name} is missing, a link, or not a regular file")


def _messages(data: mmap.mmap) -> Iterator[tuple[str, slice]]:
    """Yield kind and bytes of all messages in `MESSAGES`; without recursion, which files choose."""
    left = MAX_FIELDS
    stack = [("model", slice(0, len(data)))]
    while stack:
        kind, span = stack.pop()
        inner = MESSAGES.get(kind, {})
        for number, value in _fields(data, span):
            left -= 1
            if left < 0:
                raise ValueError(f"more than {MAX_FIELDS} fields")
            if number in inner:
                if not isinstance(value, slice):
                    raise ValueError(f"field {number} of a {kind} is not a message")
                stack.append((inner[number], value))
        yield kind, span


def _values(data: mmap.mmap, span: slice) -> tuple[tuple[bytes, bytes], int]:
    """Return the texts of fields 1 and 2 of a short message, and the integer of field 2.

    Text and integers are kept apart: parsers skip a field of an unexpected wire type.
    """
    texts, integers = {1: b"", 2: b""}, {2: 0}
    for number, value in _fields(data, span):
        if not isinstance(value, slice):
            integers[number] = value
        elif value.stop - value.start > MAX_TEXT:
            raise ValueError(f"text of more than {MAX_TEXT} bytes")
        else:
            texts[number] = data[value]
    return (texts[1], texts[2]), integers[2]


def _fields(data: mmap.mmap, span: slice) -> Iterator[tuple[int, int | slice]]:
    """Yield number and value of the fields of a message: an integer, or the place of its bytes."""
    place = span.start
    while place < span.stop:
        tag, place = _varint(data, place)
        number, wire_type = tag >> 3, tag & 7
        value: int | slice = 0
        if wire_type == 0:
            value, place = _varint(data, place)
        elif wire_type == 2:
            size, place = _varint(data, place)
            value = slice(place, place + size)
            place += size
        elif wire_type in (1, 5):
            place += 8 if wire_type == 1 else 4
        else:
            raise ValueError(f"field {number} has wire type {wire_type}")
        if not 0 < number < 1 << 29:  # parsers drop the bits above, and see another field
            raise ValueError(f"field {number} is not allowed")
        if place > span.stop:
            raise ValueError(f"field {number} is cut short")
        yield number, value


def _varint(data: mmap.mmap, place: int) -> tuple[int, int]:
    """Decode the variable-length integer at `place`; return it and the place after it."""
    value = 0
    for shift in range(0, 70, 7):
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
    raise ValueError("an integer has more than 64 bits")
