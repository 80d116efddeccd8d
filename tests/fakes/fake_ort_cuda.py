"""ONNX Runtime as if built for CUDA: calls are checked and recorded, the real one does the work."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
FALLBACK = (
    "This session contains graph nodes that are assigned to the default CPU EP, but fallback to "
    "CPU EP has been explicitly disabled by the user."
)


class OnGpu:
    """An OrtValue in a GPU's memory."""

    def __init__(self, shape: tuple[int, ...], dtype: Any) -> None:
        self._array: npt.NDArray[Any] = np.full(shape, 7, dtype)

    def shape(self) -> list[int]:
        return list(self._array.shape)

    def numpy(self) -> npt.NDArray[Any]:
        return self._array.copy()

    def update_inplace(self, array: npt.NDArray[Any]) -> None:
        assert array.shape == self._array.shape
        assert array.dtype == self._array.dtype
        assert array.flags.c_contiguous
        self._array[:] = array


class FakeOrtCuda:
    """The module, and how a test controls it.

    Attributes:
        starts: `gpu`, or how a session ends up on the CPU: `refused` or `silent`.
        fault: Raised by the next run.
        sessions: Provider options of every session.
        reserved: Shapes reserved on the GPU.
        runs: Number of runs.
    """

    def __init__(self) -> None:
        self.starts = "gpu"
        self.fault: Exception | None = None
        self.sessions: list[dict[str, str]] = []
        self.reserved: list[tuple[int, ...]] = []
        self.runs = 0
        self.module = self._module()

    def install(self, monkeypatch: pytest.MonkeyPatch) -> FakeOrtCuda:
        """Make `import onnxruntime` find it until the test ends."""
        monkeypatch.setitem(sys.modules, "onnxruntime", self.module)
        return self

    def _module(self) -> ModuleType:
        fake = self

        class Binding:
            def __init__(self) -> None:
                self._values: dict[str, OnGpu] = {}

            def bind_ortvalue_input(self, name: str, value: OnGpu) -> None:
                self._values[name] = value

            bind_ortvalue_output = bind_ortvalue_input

        class Session:
            def __init__(self, path: str, options: Any, providers: list[Any]) -> None:
                ((provider, settings),) = providers
                assert provider == CUDA
                assert options.get_session_config_entry("session.disable_cpu_ep_fallback") == "1"
                fake.sessions.append(settings)
                if fake.starts == "refused":
                    raise RuntimeError(FALLBACK)
                self._real = onnxruntime.InferenceSession(path, providers=[CPU])
                self.get_inputs, self.get_outputs = self._real.get_inputs, self._real.get_outputs

            def get_providers(self) -> list[str]:
                return [CPU] if fake.starts == "silent" else [CUDA, CPU]

            def io_binding(self) -> Binding:
                return Binding()

            def run_with_iobinding(self, binding: Binding) -> None:
                fake.runs += 1
                fault, fake.fault = fake.fault, None
                if fault is not None:
                    raise fault
                feed = {name: binding._values[name].numpy() for name in ("image", "dsm")}
                (logits,) = self._real.run(["logits"], feed)
                binding._values["logits"].update_inplace(logits)

        class OrtValue:
            @staticmethod
            def ortvalue_from_shape_and_type(
                shape: tuple[int, ...], element_type: Any, device_type: str, device_id: int
            ) -> OnGpu:
                assert (device_type, device_id) == ("cuda", 0)
                fake.reserved.append(shape)
                return OnGpu(shape, element_type)

        module = ModuleType("onnxruntime")
        module.__spec__ = ModuleSpec("onnxruntime", None)
        names: dict[str, Any] = {
            "__version__": onnxruntime.__version__,
            "get_available_providers": lambda: [CUDA, CPU],
            "preload_dlls": lambda: print("libcudnn.so.9 could not be preloaded"),
            "InferenceSession": Session,
            "OrtValue": OrtValue,
            "SessionOptions": onnxruntime.SessionOptions,
        }
        for name, value in names.items():
            assert hasattr(onnxruntime, name)
            setattr(module, name, value)
        pairs = (Session, onnxruntime.InferenceSession), (OnGpu, onnxruntime.OrtValue)
        for ours, real in (*pairs, (Binding, onnxruntime.IOBinding)):
            assert not {name for name in vars(ours) if name[0] != "_"} - set(dir(real))
        return module
