"""Reading and writing .pt and .pth files safely. Knows not what is in them."""

from __future__ import annotations

import contextlib
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mfnet_runtime.errors import ModelError, ResourceError, UsageError

ZIP = b"PK\3\4"  # how torch's files begin


def read_torch_file(path: Path, remedy: str) -> Any:
    """The content of a file on the CPU, tensors and plain types only; code in it never runs.

    Args:
        path: A file torch.save wrote.
        remedy: What to do about a bad file, the end of the message.

    Raises:
        UsageError: missing, a folder, or not readable.
        ModelError: truncated, damaged, not torch's, or holding anything but tensors and plain
            types.
    """
    if not path.is_file():
        raise UsageError(f"{path} is not a file; give the path of a checkpoint")
    try:
        _require_whole(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as fault:
        raise UsageError(f"{path} cannot be read: {fault.strerror or fault}") from fault
    except Exception as fault:  # damaged pickles raise nearly anything
        reason = (str(fault).strip() or type(fault).__name__).splitlines()[0][:160]
        raise ModelError(
            f"{path} is damaged or holds more than tensors and plain types ({reason}); {remedy}"
        ) from fault


def _require_whole(path: Path) -> None:
    """Compare all parts of a file with their checksums, which torch does not; none may be packed.

    Raises:
        ValueError: a part is another one than was written, or unpacks to more than the file has.
        zipfile.BadZipFile: cut short.
    """
    with path.open("rb") as file:
        if file.read(len(ZIP)) != ZIP:
            return  # torch's format of before 1.6 has no checksums
    with zipfile.ZipFile(path) as whole:
        parts = whole.infolist()
        packed = any(part.compress_type != zipfile.ZIP_STORED for part in parts)
        if packed or sum(part.file_size for part in parts) > path.stat().st_size:
            raise ValueError("it unpacks to more than it has, as torch's files do not")
        damaged = whole.testzip()
    if damaged is not None:
        raise ValueError(f"{damaged} does not have its CRC-32")


def tensors_only(data: Any, path: Path, remedy: str) -> dict[str, Tensor]:
    """`data` as named dense tensors.

    Raises:
        ModelError: not a mapping of names to dense CPU tensors.
    """
    if not isinstance(data, Mapping) or not data:
        raise ModelError(f"{path} holds {type(data).__name__}, not named tensors; {remedy}")
    for name, value in data.items():
        if not isinstance(name, str) or not isinstance(value, Tensor) or not _is_dense(value):
            raise ModelError(f"{path}: {name!r} is not a dense tensor; {remedy}")
    return dict(data)


def _is_dense(value: Tensor) -> bool:
    return (
        value.layout is torch.strided
        and value.device.type == "cpu"
        and not value.is_quantized
        and not value.is_nested
        and not value.is_complex()
    )


def write_torch_file(path: Path, content: Any) -> None:
    """Write `content` in whole or not at all: a temporary file beside it, then a rename.

    Raises:
        UsageError: the folder does not exist.
        ResourceError: the disk is full or the folder is read-only; an older file is untouched.
    """
    if not path.parent.is_dir():
        raise UsageError(f"{path.parent} is not a folder; create it or choose another output")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as fault:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        # torch wraps what the disk says into a RuntimeError of its zip writer.
        if isinstance(fault, OSError) or "PytorchStreamWriter" in str(fault):
            raise ResourceError(
                f"{path} cannot be written ({str(fault).splitlines()[0][:160]}); "
                "free space or choose another folder"
            ) from fault
        raise
