"""Plans that tests run: the tiny model of `support`, on the fake TensorRT and the fake GPU."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import pytest
from fakes.fake_pycuda import FakePycuda
from fakes.fake_tensorrt import RTX, FakePlan, FakeTensorRT, fake_tensorrt
from support import RGBD, write_rgbd_model

from mfnet_runtime.backends.tensorrt.plan_file import PlanFacts, Profile, sidecar_of
from mfnet_runtime.contract import Contract

BUILT_ON = {"cuda": "12.6", "driver": "12.2", "gpu": "NVIDIA Fake"}


@dataclass(frozen=True)
class Rig:
    """A machine with a GPU and a TensorRT."""

    cuda: FakePycuda
    trt: FakeTensorRT

    def check(self) -> None:
        """Nothing is left on the GPU, and nothing was done that CUDA would punish."""
        self.cuda.check()
        assert not +self.cuda.live, self.cuda.live
        assert self.cuda.machine.held() == 0
        assert self.cuda.machine.calls_after_loss == []


@contextmanager
def rig(version: str, module: str | None = None, **gpu: Any) -> Iterator[Rig]:
    """A machine with that TensorRT; `check` it after use."""
    with pytest.MonkeyPatch.context() as patch:
        trt = fake_tensorrt(version).install(patch, module)
        if version == RTX:
            gpu.setdefault("compute_capability", (8, 9))
        cuda = FakePycuda(**gpu).install(patch)
        trt.script["cuda"] = cuda
        yield Rig(cuda, trt)


def write_rgbd_plan(
    path: Path,
    trt: FakeTensorRT,
    *,
    window: int = 32,
    precision: str = "fp32",
    profile: tuple[int, int, int] = (1, 4, 64),
    change: Callable[[onnx.GraphProto], object] = lambda graph: None,
    **facts: Any,
) -> Path:
    """A plan of the model of `write_rgbd_model`, and the facts beside it.

    Args:
        path: Of the plan; the ONNX file goes beside it.
        trt: Whose version builds it.
        window: Pixels a side.
        precision: Of the model.
        profile: Smallest, best and largest batch.
        change: What to do to the graph before.
        facts: Fields of `PlanFacts` that are to differ.
    """
    source = write_rgbd_model(path.with_suffix(".onnx"), window, precision=precision)
    model = onnx.load(source)
    change(model.graph)
    onnx.save(model, source)
    shapes = {
        name: tuple((batch, bands, window, window) for batch in profile)
        for name, bands in (("image", 3), ("dsm", 1))
    }
    compatible = bool(facts.get("version_compatible"))
    plan = FakePlan(trt.version, source.read_bytes(), shapes, compatible)  # type: ignore[arg-type]
    path.write_bytes(plan.to_bytes())
    known: dict[str, Any] = {
        "contract": Contract(window, RGBD, precision=precision),
        "plan_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "onnx_sha256": hashlib.sha256(source.read_bytes()).hexdigest(),
        "flavour": trt.flavour,
        "version": trt.version,
        "targets": ("sm89",) if trt.flavour == "rtx" else ("sm90",),
        **({} if trt.flavour == "rtx" else BUILT_ON),
        "profile": Profile(*profile),
    }
    sidecar_of(path).write_text(PlanFacts(**{**known, **facts}).to_json())
    return path
