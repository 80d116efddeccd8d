"""The table of backends. A backend is imported only when asked for."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mfnet_runtime.backends.base import Backend, TensorSpec
from mfnet_runtime.errors import ModelError, UsageError, missing_package

__all__ = ["BACKENDS", "DEVICES", "Backend", "TensorSpec", "backend_for", "backend_from_file"]

# Name and device to class.
BACKENDS = {
    "openvino": {"cpu": "mfnet_runtime.backends.openvino_cpu:OpenVinoBackend"},
    "onnxruntime": {
        "cpu": "mfnet_runtime.backends.onnxruntime_cpu:OrtBackend",
        "cuda": "mfnet_runtime.backends.onnxruntime_cuda:OrtCudaBackend",
    },
    "tensorrt": {"cuda": "mfnet_runtime.backends.tensorrt.backend:TensorRtBackend"},
}
DEVICES = ("cpu", "cuda")
# What runs a suffix on a device, the fastest first; `auto` takes the first that is installed.
RUNS = {
    (".onnx", "cpu"): ("openvino", "onnxruntime"),
    (".onnx", "cuda"): ("onnxruntime",),
    (".plan", "cuda"): ("tensorrt",),
}


def backend_from_file(
    path: Path,
    name: str = "auto",
    device: str = "auto",
    trust_plan: bool = False,
    **options: Any,
) -> Backend:
    """The backend that runs a model file; no device is touched before it is entered.

    Args:
        path: The model.
        name: One of `BACKENDS`, or `auto` for the fastest that is installed and runs such a file.
        device: One of `DEVICES`, or `auto`: what the file needs.
        trust_plan: Run a plan that nothing vouches for.
        options: Passed on: `threads` (0: physical cores), `precision` (what floats run in: `fp32`,
            `bf16`; None: as in the file) and `batch` (windows a call that it is to be fastest for;
            None: its own choice).

    Raises:
        UsageError: the file is missing, no backend has that name, it is not installed, or it
            cannot do what the options ask.
        ModelError: no backend runs such a file, or the file is refused.
    """
    name, device = backend_for(path, name, device, trust_plan)
    if path.suffix.lower() == ".plan":
        options["trust_plan"] = trust_plan
    module, attribute = BACKENDS[name][device].split(":")
    try:
        backend: Backend = getattr(import_module(module), attribute)(path, **options)
    except ModuleNotFoundError as fault:
        remedy = missing_package(fault.name)
        if remedy is None:
            raise
        raise UsageError(f"backend {name} {remedy}") from fault
    return backend


def backend_for(
    path: Path, name: str = "auto", device: str = "auto", trust_plan: bool = False
) -> tuple[str, str]:
    """Name and device of the backend that runs a model file, of which at most the header is read.

    Raises:
        UsageError: the file is missing, or no backend of that name runs it on that device.
        ModelError: no backend runs such a file.
    """
    if not path.is_file():
        raise UsageError(f"{path}: no such model file")
    if name not in ("auto", *BACKENDS):
        raise UsageError(f"no backend named {name!r}; there are {', '.join(BACKENDS)}")
    if device not in ("auto", *DEVICES):
        raise UsageError(f"no device named {device!r}; there are {', '.join(DEVICES)}")
    suffix = path.suffix.lower()
    if suffix not in {known for known, _ in RUNS}:
        raise ModelError(f"{path}: {_why_not(path)}")
    if device == "auto":
        device = _device_for(path, name)
    able = RUNS.get((suffix, device), ())
    if name == "auto" and able:
        name = next((engine for engine in able if find_spec(engine)), able[-1])
    if name not in able:
        raise UsageError(f"{path}: {_why_not_so(path, name, device)}")
    if trust_plan and suffix != ".plan":
        raise UsageError(f"{path}: is no plan; leave out --trust-plan")
    return name, device


def _device_for(path: Path, name: str) -> str:
    """What a file needs: a GPU for a plan, and for an FP16 file if ONNX Runtime can use it."""
    if path.suffix.lower() == ".plan":
        return "cuda"
    if name == "openvino":
        return "cpu"
    from mfnet_runtime.backends.onnx_file import contract_in_onnx
    from mfnet_runtime.backends.onnxruntime_cuda import has_cuda_provider

    return "cuda" if contract_in_onnx(path).precision == "fp16" and has_cuda_provider() else "cpu"


def _why_not(path: Path) -> str:
    if path.suffix.lower() in (".pt", ".pth"):
        return f"is a PyTorch checkpoint; export it first: mfnet-export --ckpt {path.name}"
    return (
        "not a model this runtime runs; expected one of "
        f"{', '.join(dict.fromkeys(suffix for suffix, _ in RUNS))}"
    )


def _why_not_so(path: Path, name: str, device: str) -> str:
    """Why a file that can be run is not run like this."""
    if path.suffix.lower() == ".plan":
        if device == "cpu":
            return "a plan runs on a GPU; leave out --device cpu, or run the ONNX file"
        return f"a plan runs on TensorRT; leave out --backend {name}, or run the ONNX file"
    if name == "tensorrt":
        return f"TensorRT runs plans; build one: mfnet-export --onnx {path.name} --plan"
    return f"{name} runs on a CPU here; leave out --device, or --backend"
