"""Faults of checkpoints that mfnet-export reads: M1 to M4."""

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

Plant = Callable[[Workplace], Any]


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


def cut_in_half(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


AGAIN, CODE = "copy it again", "may run code; save the state_dict"
CELLS = (
    checkpoint("M1", "checkpoint cut in half", AGAIN, lambda place: cut_in_half(save(place))),
    checkpoint("M1", "checkpoint of 0 bytes", AGAIN, lambda place: os.truncate(save(place), 0)),
    checkpoint("M1", "one bit of a weight flipped", "CRC-32 of", flipped_bit),
    checkpoint("M2", "os.system in a checkpoint", CODE,
               lambda place: save(place, {**content(), **evil(place)})),
    checkpoint("M2", "os.system in many pickles", CODE, many_pickles),
    checkpoint("M2", "os.system in the format before 1.6", CODE,
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
)  # fmt: skip
