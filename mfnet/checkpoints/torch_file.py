"""Safe reading of checkpoint files, and writing of .pt files."""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mfnet_runtime.errors import ModelError, ResourceError, UsageError, one_line
from mfnet_runtime.files import replace_files

ZIP = b"PK\3\4"  # first bytes of a file of torch 1.6 or later
SAFETENSORS = ".safetensors"
SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", SAFETENSORS)  # of checkpoints


class _Ignored:
    """Replaces a value of a type that is harmless but no weight; holds nothing."""

    def __init__(self, *args: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


# Training loops save scores and options beside the weights. None of these is imported or called.
_IGNORED: list[Any] = [
    (_Ignored, name)
    for name in (
        "numpy.dtype",
        "numpy.ndarray",
        "numpy.core.multiarray.scalar",
        "numpy.core.multiarray._reconstruct",
        "numpy._core.multiarray.scalar",
        "numpy._core.multiarray._reconstruct",
        "argparse.Namespace",
        "pathlib.PosixPath",
        "pathlib.WindowsPath",
    )
]


def read_torch_file(path: Path, remedy: str) -> Any:
    """Load tensors and plain types onto the CPU; code in the file never runs.

    Args:
        path: File written by torch.save, or a .safetensors file.
        remedy: End of the message about a bad file.

    Raises:
        UsageError: The file is missing, a folder, or not readable.
        ModelError: The file is truncated, damaged, not from torch, or holds anything but tensors,
            plain types, and values of numpy, argparse and pathlib, which are dropped.
        ModuleNotFoundError: The package safetensors is needed and not installed.
    """
    if not path.is_file():
        raise UsageError(f"{path} is not a file; give the path of a checkpoint")
    load: Callable[[Path], Any] = _load_pickle
    if path.suffix.lower() == SAFETENSORS:
        from safetensors.torch import load_file as load
    try:
        return load(path)
    except OSError as fault:
        raise UsageError(f"{path} cannot be read: {fault.strerror or fault}") from fault
    except Exception as fault:  # a damaged pickle can raise nearly anything
        if unsafe := re.search(r"GLOBAL (\S+)", str(fault)):
            raise ModelError(
                one_line(
                    f"{path} holds more than tensors and plain types, {unsafe[1]:.160}, which may "
                    "run code; save the state_dict of the network alone"
                )
            ) from fault
        raise ModelError(
            f"{path} is damaged or not a checkpoint ({_reason(fault)}); {remedy}"
        ) from fault


def _load_pickle(path: Path) -> Any:
    _verify_checksums(path)
    with torch.serialization.safe_globals(_IGNORED):
        return torch.load(path, map_location="cpu", weights_only=True)


def _reason(fault: Exception) -> str:
    """Return why a file cannot be loaded, without torch's advice on how to load it unsafely."""
    text = str(fault).rpartition("WeightsUnpickler error:")[2].strip() or type(fault).__name__
    return one_line(text.splitlines()[0])[:160]


def _verify_checksums(path: Path) -> None:
    """Compare the members of a file with their checksums, which torch.load does not do.

    Raises:
        ValueError: A member is damaged, or unpacks to more bytes than the file has.
        zipfile.BadZipFile: The file is truncated.
    """
    with path.open("rb") as file:
        if file.read(len(ZIP)) != ZIP:
            return  # the format before torch 1.6 has no checksums
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        compressed = any(member.compress_type != zipfile.ZIP_STORED for member in members)
        if compressed or sum(member.file_size for member in members) > path.stat().st_size:
            raise ValueError("it unpacks to more bytes than it has, unlike files that torch writes")
        damaged = archive.testzip()
    if damaged is not None:
        raise ValueError(f"the CRC-32 of {damaged} does not match")


def require_tensors(data: Any, path: Path, remedy: str) -> dict[str, Tensor]:
    """Return `data` if it is a mapping of names to dense CPU tensors.

    Raises:
        ModelError: `data` is anything else.
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
    """Write a file under a temporary name, then rename it.

    Raises:
        UsageError: The folder does not exist.
        ResourceError: The disk is full or the folder is read-only; an older file is kept.
    """
    if not path.parent.is_dir():
        raise UsageError(f"{path.parent} is not a folder; create it or choose another output")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            torch.save(content, file)
        replace_files([(temporary, path)])
    except (OSError, RuntimeError) as fault:
        # torch's zip writer wraps the operating system's message into a RuntimeError.
        if isinstance(fault, RuntimeError) and "PytorchStreamWriter" not in str(fault):
            raise
        raise ResourceError(
            f"{path} cannot be written ({str(fault).splitlines()[0][:160]}); "
            "free space or choose another folder"
        ) from fault
    finally:
        temporary.unlink(missing_ok=True)
