"""The GPU, real or acted, and the models that run on it.

    pytest -m gpu tests/gpu                                   # this machine's GPU
    MFNET_GPU_MODEL=best.fp16.plan pytest -m gpu tests/gpu    # a plan or ONNX file of your own

Without `-m gpu` the tests run on the GPU acted by `fakes` as well, which needs no hardware. Your
own model is compared with its FP32 ONNX file, which must be beside it: best.onnx. With
MFNET_GPU_SCENES, a folder of labelled scenes, its mIoU is compared too.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from fakes.fake_ort_cuda import FakeOrtCuda
from rgbd_plans import rig
from support import write_rgbd_model

from mfnet_export.cli import main as export
from mfnet_export.tensorrt.machine import NoBuilderError, require_builder
from mfnet_runtime.backends import backend_from_file
from mfnet_runtime.backends.base import Backend
from mfnet_runtime.backends.onnxruntime_cuda import has_cuda_provider
from mfnet_runtime.cuda.device import CudaDevice
from mfnet_runtime.errors import UsageError

GIVEN = os.environ.get("MFNET_GPU_MODEL")
REAL = pytest.param("real", marks=pytest.mark.gpu)
MODELS = ("random.fp16.plan", "random.plan", "random.fp16.onnx")


@dataclass(frozen=True)
class Gpu:
    """An open device; hold it while engines come and go, since TensorRT lives in its context."""

    device: CudaDevice
    acted: bool

    @contextmanager
    def engine_of(self, model: Path) -> Iterator[None]:
        """While it lasts, the engine that runs a model on this GPU can be imported."""
        if not self.acted or model.suffix == ".plan":
            yield
            return
        with pytest.MonkeyPatch.context() as patch:
            FakeOrtCuda().install(patch)
            yield


@pytest.fixture(scope="module", params=[REAL] if GIVEN else [REAL, "acted"])
def gpu(request: pytest.FixtureRequest) -> Iterator[Gpu]:
    if request.param == "acted":
        with rig("10.13") as machine:
            with CudaDevice() as device:
                yield Gpu(device, acted=True)
            machine.check()
        return
    try:
        device = CudaDevice()
    except (ModuleNotFoundError, UsageError) as fault:
        pytest.skip(str(fault))
    with device:
        yield Gpu(device, acted=False)


@pytest.fixture(scope="module")
def folder(gpu: Gpu, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """random.onnx and random.fp16.onnx: a small MFNet, or where there is no torch, a stub of one"""
    made = tmp_path_factory.mktemp("acted" if gpu.acted else "real")
    try:
        if gpu.acted:
            raise ModuleNotFoundError
        from mfnet_bench.random_checkpoint import write_random_checkpoint
    except ModuleNotFoundError:
        write_rgbd_model(made / "random.onnx")
        write_rgbd_model(made / "random.fp16.onnx", precision="fp16")
    else:
        checkpoint = write_random_checkpoint(made / "random.pt", "small", "lora", window=256)
        bounds = ["--fp16", "--max-disagree", "100", "--max-drop", "100"]
        assert export(["--ckpt", str(checkpoint), *bounds]) == 0
    return made


@pytest.fixture(scope="module", params=[GIVEN] if GIVEN else MODELS)
def model(request: pytest.FixtureRequest, gpu: Gpu) -> Path:
    """A file to run on the GPU; a plan is built unless it is there."""
    if GIVEN:
        return Path(GIVEN)
    path = Path(request.getfixturevalue("folder") / request.param)
    if path.suffix == ".plan" and not path.exists():
        try:
            require_builder()
        except NoBuilderError as fault:
            pytest.skip(str(fault))
        assert export(["--onnx", str(path.with_suffix(".onnx")), "--plan"]) == 0
    with gpu.engine_of(path):
        if path.suffix == ".onnx" and not has_cuda_provider():
            pytest.skip("ONNX Runtime here has no CUDA provider")
    return path


@pytest.fixture(scope="module")
def trained(model: Path) -> bool:
    """False for random weights, with which hardly a pixel's class is decided."""
    return not model.name.startswith("random")


@pytest.fixture(scope="module")
def fp32(model: Path) -> Path:
    """The FP32 ONNX file that the model must agree with."""
    return model.with_name(model.name.partition(".")[0] + ".onnx")


@pytest.fixture(scope="module")
def reference(fp32: Path) -> Iterator[Backend]:
    """The FP32 file on the CPU."""
    with backend_from_file(fp32, "onnxruntime", "cpu") as backend:
        yield backend


@pytest.fixture(scope="module")
def backend(gpu: Gpu, model: Path, reference: Backend) -> Iterator[Backend]:
    """The model on the GPU; the reference comes first, so that its ONNX Runtime is the real one."""
    with gpu.engine_of(model):
        opened = backend_from_file(model, device="cuda")
    with opened as backend:
        yield backend
