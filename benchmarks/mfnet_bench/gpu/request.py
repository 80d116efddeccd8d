"""What a GPU check is asked for, and where each network's files lie. Needs no torch, no onnx.

The machine that has TensorRT need not have torch: what needs torch runs in a Python of its own.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mfnet_runtime.errors import UsageError
from mfnet_runtime.files import sha256_from_file

STEPS = ("networks", "plans", "parity", "conformance", "kernels", "speed", "scene")
RANDOM = ("vit_b lora", "vit_b adapter", "vit_l lora", "vit_l adapter")
CLASSES = 6  # of random networks, as in the published data sets


@dataclass(frozen=True)
class NetworkFiles:
    """The files of one network."""

    name: str  # as `vit_b lora`, or the stem of a checkpoint
    folder: Path
    given: Path | None = None  # a trained checkpoint; None: random weights

    def _file(self, suffix: str) -> Path:
        return self.folder / f"{self.name.replace(' ', '_')}{suffix}"

    @property
    def checkpoint(self) -> Path:
        """In PyTorch."""
        return self._file(".pt")

    @property
    def onnx(self) -> Path:
        """FP32."""
        return self._file(".onnx")

    @property
    def fp16(self) -> Path:
        """FP16."""
        return self._file(".fp16.onnx")

    @property
    def windows(self) -> Path:
        """npz of `image`, `dsm` and the `logits` PyTorch gives for them in FP32."""
        return self._file(".windows.npz")

    @property
    def facts(self) -> Path:
        """JSON: GFLOP a window, parity on a CPU. Written last: whoever finds it finds all."""
        return self._file(".facts.json")

    def source(self, precision: str) -> Path:
        """ONNX file that the plan of a precision is built from."""
        return self.fp16 if precision == "fp16" else self.onnx

    def plan(self, precision: str) -> Path:
        """TensorRT plan of `fp32` or `fp16`."""
        return self._file(f".{precision}.plan")


@dataclass(frozen=True, kw_only=True)
class CheckRequest:
    """What to check.

    Raises:
        UsageError: a value that means nothing.
    """

    work: Path  # folder of models and plans, kept between runs
    networks: tuple[str, ...] = RANDOM
    checkpoints: tuple[Path, ...] = ()  # trained ones, beside them
    scenes: Path | None = None  # image/ dsm/ [label/] for parity; None: a drawn town
    window: int = 256  # pixels a side, of random networks
    batches: tuple[int, ...] = (1, 8, 16, 32)
    compiled_batch: int = 16  # torch.compile takes a minute a batch
    rounds: int = 5
    turn_s: float = 0.3  # seconds an engine runs in a round
    windows: int = 16  # that parity is measured on, noise aside
    scene_size: tuple[int, int] = (2500, 2000)  # rows, columns
    strides: tuple[int, ...] = (32, 128)
    steps: tuple[str, ...] = STEPS
    torch_python: str = sys.executable  # with torch and onnx
    cublas: bool = True  # whether TensorRT may use cuBLAS and cuDNN
    dry: bool = False  # tiny, on the CPU, without what needs a GPU

    def __post_init__(self) -> None:
        for name, known, asked in (
            ("step", STEPS, self.steps),
            ("network", _random_names(), self.networks),
        ):
            unknown = [value for value in asked if value not in known]
            if unknown:
                raise UsageError(f"{name} {unknown[0]!r}: expected some of {', '.join(known)}")
        if not self.batches or min(self.batches) < 1 or self.rounds < 1:
            raise UsageError("expected batches and rounds of at least 1")
        for path in self.checkpoints:
            if not path.is_file():
                raise UsageError(f"{path}: no such checkpoint")
        places = [files.facts for files in self.files]
        for files in self.files:
            if places.count(files.facts) > 1:
                raise UsageError(f"two networks named {files.name}: copy one to another name")

    @property
    def files(self) -> list[NetworkFiles]:
        """Of every network, trained ones first: they say most."""
        trained = [NetworkFiles(path.stem, self.work, path) for path in self.checkpoints]
        return trained + [NetworkFiles(name, self.work) for name in self.networks]

    @property
    def largest_batch(self) -> int:
        """That plans are built for."""
        return max(self.batches)

    @property
    def best_batch(self) -> int:
        """That plans are tuned for."""
        return self.compiled_batch if self.compiled_batch in self.batches else self.largest_batch


def origin(files: NetworkFiles, request: CheckRequest) -> dict[str, Any]:
    """What a network's files are made from: once it is another, they are made anew."""
    return {
        "checkpoint": files.given and sha256_from_file(files.given),
        "window": request.window,
        "windows": request.windows,
        "scenes": request.scenes and str(request.scenes.resolve()),
    }


def making(files: NetworkFiles, request: CheckRequest) -> list[str]:
    """The command that makes a network's files."""
    text = json.dumps({**asdict(files), "origin": origin(files, request)}, default=str)
    return [request.torch_python, "-m", "mfnet_bench.gpu.network_files", text]


def dry(request: dict[str, Any]) -> CheckRequest:
    """A request that a machine without GPU fulfils in half a minute: the same code, tiny sizes."""
    sizes = {
        "networks": ("tiny lora",),
        "window": 64,
        "batches": (1, 2),
        "compiled_batch": 2,
        "rounds": 2,
        "turn_s": 0.02,
        "windows": 2,
        "scene_size": (150, 200),
        "strides": (32,),
    }
    return CheckRequest(**{**request, **sizes, "dry": True})


def _random_names() -> Sequence[str]:
    sizes = ("vit_b", "vit_l", "vit_h", "small", "tiny")
    return [f"{size} {tuning}" for size in sizes for tuning in ("lora", "adapter", "none")]
