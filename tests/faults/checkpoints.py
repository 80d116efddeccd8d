"""Faults of checkpoints that `mfnet-export` reads: M1 to M4."""

from __future__ import annotations

import os
import pickle
import warnings
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from faults.cell import Cell
from faults.workplace import Workplace
from networks import random_network
from torch import Tensor

from mfnet.checkpoints.checkpoint import FORMAT
from mfnet_runtime.contract import Contract
from mfnet_runtime.labels import ClassTable

REFUSED = "checkpoint refused, nothing written"
MEMORY = 640 << 20  # bytes resident: PyTorch itself takes 400 MiB of them
Weights = dict[str, Any]


@cache
def content() -> dict[str, Any]:
    """Of a sound checkpoint; not to be changed."""
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
    """Unpickling this would create a file, by the shell."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self._path}",)


def saved(place: Workplace, **changes: Any) -> Path:
    place.checkpoint = place.root / "best.pt"
    torch.save({**content(), **changes}, place.checkpoint)
    return place.checkpoint


def refused(fault: str, what: str, says: str, plant: Callable[[Workplace], Any]) -> Cell:
    def check(place: Workplace, _: object) -> None:
        assert not (place.root / "canary").exists()
        assert not list(place.root.glob("*best.onnx*"))

    parts = ("best.pt", says)
    return Cell(fault, what, 3, REFUSED, plant, parts, check, exports=True, memory=MEMORY)


def with_bytes(change: Callable[[bytes], bytes]) -> Callable[[Workplace], None]:
    def plant(place: Workplace) -> None:
        path = saved(place)
        path.write_bytes(change(path.read_bytes()))

    return plant


def flipped(place: Workplace) -> None:
    """One bit of a weight."""
    path = saved(place)
    with zipfile.ZipFile(path) as parts:
        largest = max(parts.infolist(), key=lambda part: part.file_size)
        whole = path.read_bytes()
        at = whole.index(parts.read(largest)) + largest.file_size // 2
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 16]) + whole[at + 1 :])


def with_weights(change: Callable[[str, Tensor], Weights]) -> Callable[[Workplace], None]:
    """Something else in the place of the first matrix of the weights."""

    def plant(place: Workplace) -> None:
        weights = dict(content()["weights"])
        name = next(name for name, value in weights.items() if value.ndim == 2)
        value = weights.pop(name)
        saved(place, weights={**weights, **change(name, value)})

    return plant


def code_in(place: Workplace) -> None:
    saved(place, weights={"a": Canary(place.root / "canary")})


def code_in_a_plain_pickle(place: Workplace) -> None:
    """Of many, each of which the old format reads."""
    place.checkpoint = place.root / "best.pt"
    evil = pickle.dumps(Canary(place.root / "canary"), protocol=2)
    place.checkpoint.write_bytes(evil * 5)


def code_in_the_old_format(place: Workplace) -> None:
    place.checkpoint = place.root / "best.pt"
    data = {"weights": Canary(place.root / "canary")}
    torch.save(data, place.checkpoint, _use_new_zipfile_serialization=False)


def bomb(place: Workplace) -> None:
    """A quarter of a million bytes that unpack to 256 MiB."""
    plain = saved(place)
    place.checkpoint = place.root / "bomb" / "best.pt"
    place.checkpoint.parent.mkdir()
    with zipfile.ZipFile(plain) as parts, zipfile.ZipFile(place.checkpoint, "w") as packed:
        for part in parts.infolist():
            kept = part.file_size < 1 << 16
            data = parts.read(part) if kept else bytes(256 << 20)
            packed.writestr(part.filename, data, zipfile.ZIP_DEFLATED, 1)
            if not kept:
                break


def quantised(name: str, value: Tensor) -> Weights:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # newer versions deprecate it
        return {name: torch.quantize_per_tensor(value, 0.1, 0, torch.qint8)}


CELLS = (
    refused("M1", "checkpoint cut in half", "copy it again", with_bytes(lambda b: b[:1_000_000])),
    refused("M1", "checkpoint of 0 bytes", "copy it again", with_bytes(lambda b: b"")),
    refused("M1", "one bit of a weight flipped", "does not have its CRC-32", flipped),
    refused("M2", "os.system in a checkpoint", "tensors and plain types", code_in),
    refused("M2", "os.system in many pickles", "copy it again", code_in_a_plain_pickle),
    refused("M2", "os.system in the format before 1.6", "copy it again", code_in_the_old_format),
    refused("M3", "a weight missing", "missing", with_weights(lambda name, value: {})),
    refused("M3", "a weight too many", "not here",
            with_weights(lambda name, value: {name: value, "more": value})),
    refused("M3", "a weight of another shape", "(1, ",
            with_weights(lambda name, value: {name: value[None]})),
    refused("M3", "a sparse weight", "is not a dense tensor",
            with_weights(lambda name, value: {name: value.to_sparse()})),
    refused("M3", "a quantised weight", "copy it again", with_weights(quantised)),
    refused("M3", "a weight without values (meta)", "copy it again",
            with_weights(lambda name, value: {name: value.to("meta")})),
    refused("M3", "NaN in a weight", "weights hold NaN",
            with_weights(lambda name, value: {name: value * float("nan")})),
    refused("M4", "checkpoint that unpacks to 256 MiB", "unpacks to more", bomb),
)  # fmt: skip
