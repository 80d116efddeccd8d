"""The table of backends; each is imported only when it is used."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mfnet_runtime.backends.base import Backend, TensorSpec
from mfnet_runtime.backends.onnx_file import contract_in_onnx
from mfnet_runtime.errors import ModelError, UsageError, missing_package

__all__ = ["BACKENDS", "DEVICES", "Backend", "TensorSpec", "backend_for", "backend_from_file"]

# Name and device to module and class.
BACKENDS = {
    "openvino": {"cpu": "mfnet_runtime.backends.openvino_cpu:OpenVinoBackend"},
    "onnxruntime": {
        "cpu": "mfnet_runtime.backends.onnxruntime_cpu:OrtBackend",
        "cuda": "mfnet_runtime.backends.onnxruntime_cuda:OrtCudaBackend",
    },
    "tensorrt": {"cuda": "mfnet_runtime.backends.tensorrt.backend:TensorRtBackend"},
}
DEVICES = ("cpu", "cuda")
# Backends for a file name suffix and device, usually fastest first; `auto` takes the first
# installed one, and mfnet-run the one that is fastest on this machine.
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
    """Load a model file into a backend; the device is untouched until the backend is entered.

    Args:
        path: The model.
        name: One of `BACKENDS`, or `auto` for the first installed one that runs the file;
            `measure_engines` of `backends.fastest` tells which is fastest here.
        device: One of `DEVICES`, or `auto` for what the file needs.
        trust_plan: Skip the checksum, TensorRT-version and GPU checks of a plan.
        options: For the backend: `threads` (0: physical cores), `precision` (of floating-point
            operations: `fp32` or `bf16`; None: as in the file) and `batch` (windows per call to
            optimise for; None: its own choice), and for plans `eager`, see `TensorRtBackend`.

    Raises:
        UsageError: the file is missing, there is no such backend or it is not installed, or it
            cannot do what the options ask for.
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
    """Choose the backend and device for a model file without loading it.

    Raises:
        UsageError: the file is missing, or no backend of that name runs it on that device.
        ModelError: no backend runs such a file, or its contract cannot be read.
    """
    if not path.is_file():
        raise UsageError(f"{path}: no such model file")
    if name not in ("auto", *BACKENDS):
        raise UsageError(f"no backend named {name!r}; choose from {', '.join(BACKENDS)}")
    if device not in ("auto", *DEVICES):
        raise UsageError(f"no device named {device!r}; choose from {', '.join(DEVICES)}")
    suffix = path.suffix.lower()
    if suffix not in {known for known, _ in RUNS}:
        raise ModelError(f"{path}: {_why_no_model(path)}")
    if device == "auto":
        device = _device_for(path, name)
    able = RUNS.get((suffix, device), ())
    if name == "auto" and able:
        name = next((engine for engine in able if find_spec(engine)), able[-1])
    if name not in able:
        raise UsageError(f"{path}: {_why_not_there(path, name, device)}")
    if trust_plan and suffix != ".plan":
        raise UsageError(f"{path}: not a plan; leave out --trust-plan")
    return name, device


def installed_backends(path: Path, device: str) -> list[str]:
    """Return the names of the installed backends that run a file on a device."""
    return [name for name in RUNS.get((path.suffix.lower(), device), ()) if find_spec(name)]


def _device_for(path: Path, name: str) -> str:
    """Choose a GPU for a plan, and for an FP16 file if ONNX Runtime can use one."""
    if path.suffix.lower() == ".plan":
        return "cuda"
    if name == "openvino":
        return "cpu"
    if contract_in_onnx(path).precision != "fp16":
        return "cpu"
    from mfnet_runtime.backends.onnxruntime_cuda import has_cuda_provider

    return "cuda" if has_cuda_provider() else "cpu"


def _why_no_model(path: Path) -> str:
    with path.open("rb") as file:
        is_checkpoint = file.read(4) == b"PK\3\4"  # torch writes zip files, under any name
    if is_checkpoint or path.suffix.lower() in (".pt", ".pth", ".safetensors"):
        return f"a PyTorch checkpoint; export it first: mfnet-export --ckpt {path.name}"
    return (
        "not a model that this runtime runs; expected one of "
        f"{', '.join(dict.fromkeys(suffix for suffix, _ in RUNS))}"
    )


def _why_not_there(path: Path, name: str, device: str) -> str:
    """Say why a model does not run with this backend on this device."""
    if path.suffix.lower() == ".plan":
        if device == "cpu":
            return "a plan runs on a GPU; leave out --device cpu, or run the ONNX file"
        return f"a plan runs on TensorRT; leave out --backend {name}, or run the ONNX file"
    if name == "tensorrt":
        return f"TensorRT runs plans; build one: mfnet-export --onnx {path.name} --plan"
    return f"{name} runs on CPUs only; leave out --device or --backend"
