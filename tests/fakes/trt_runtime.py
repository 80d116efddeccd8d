"""TensorRT's runtime, engine and execution context over the simulated GPU.

An engine runs its ONNX file with ONNX Runtime on the GPU's memory, in the order of the stream it
was given. `FakeTensorRT.script` controls it:
    cuda      the FakePycuda whose memory and streams are used; needed to run
    start     the runtime cannot start, with this in the log; using it all the same is a crash
    open      no plan can be opened, with these lines in the log
    context   "none": no context can be created
    execute   a list of truth values, one per call; False refuses, with `refusal` in the log
    refusal   that text
    activations  bytes by the number of windows
    invalid   bits of EngineInvalidityDiagnostics: TensorRT for RTX finds the header invalid
    kernels   bytes that a runtime cache refuses, because they are of another GPU
"""

from __future__ import annotations

import json
import pickle
from typing import Any

import numpy as np
import onnx
import onnxruntime
from fakes.fake_tensorrt import MAGIC, FakePlan, Log, Recorded

ACTIVATIONS = 1000  # bytes a window, by default
INPUTS = ("image", "dsm")


class Refusing(Recorded):
    """Fails as TensorRT does: with a message in the log."""

    _logger: Log

    def _refuse(self, reason: str) -> Any:
        for line in reason.splitlines():
            self._logger.log(self._fake.module.ILogger.Severity.ERROR, line)
        return None  # false


class Runtime(Refusing):
    engine_host_code_allowed = False

    def __init__(self, logger: Log) -> None:
        assert logger._ready
        self._logger = logger
        self._refuse(self._fake.script.get("start", ""))

    engine_header_size = 64

    def get_engine_validity(self, buffer: bytes) -> tuple[Any, int]:
        assert len(buffer) == self.engine_header_size
        kinds, bits = self._fake.module.EngineValidity, self._fake.script.get("invalid")
        return (kinds.VALID, 0) if bits is None else (kinds.INVALID, bits)

    def deserialize_cuda_engine(self, serialized_engine: Any) -> Any:
        script = self._fake.script
        assert not script.get("start"), "segmentation fault"
        plan = plan_from_bytes(bytes(serialized_engine))
        if plan is None:
            return self._refuse("the plan is damaged")
        compatible = plan.version_compatible
        if script.get("open"):
            return self._refuse(script["open"])
        if plan.version != self._fake.version and not compatible:
            return self._refuse(f"the plan is of {plan.version}")
        if compatible and not self.engine_host_code_allowed:
            return self._refuse("host code is not allowed")
        engine = self._fake.module.ICudaEngine(plan, self._logger)
        if cuda := script.get("cuda"):
            try:
                with cuda.calling("TensorRT's weights"):
                    engine._weights = cuda.machine.allocate(len(plan.onnx))
            except cuda.driver.Error as fault:
                return self._refuse(f"CUDA: {fault}")
        return engine


def plan_from_bytes(data: bytes) -> FakePlan | None:
    """Return None for anything but a whole plan."""
    try:
        plan: FakePlan = pickle.loads(data.removeprefix(MAGIC))
    except (pickle.UnpicklingError, EOFError):
        return None
    return plan if data.startswith(MAGIC) else None


class Engine(Refusing):
    num_optimization_profiles = 1
    _weights = 0  # pointer

    def __init__(self, plan: FakePlan, logger: Log) -> None:
        self._plan, self._logger = plan, logger
        graph = onnx.load_from_string(plan.onnx).graph
        self._values = {value.name: value for value in (*graph.input, *graph.output)}
        vars(self).update(
            num_io_tensors=len(self._values),
            device_memory_size=ACTIVATIONS * plan.profile["image"][2][0],
        )

    def get_tensor_name(self, index: int) -> str:
        return str(list(self._values)[index])

    def get_tensor_dtype(self, name: str) -> Any:
        types = self._fake.module.DataType
        return types.HALF if self._kind(name) == np.float16 else types.FLOAT

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        sizes = self._values[name].type.tensor_type.shape.dim
        shape = tuple(size.dim_value if size.HasField("dim_value") else -1 for size in sizes)
        smallest, _, largest = (shape[0] for shape in self._plan.profile["image"])
        return (smallest, *shape[1:]) if smallest == largest else shape

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[tuple[int, ...]]:
        assert profile_index == 0
        return list(self._plan.profile[name])

    def create_engine_inspector(self) -> Any:
        return self._fake.module.EngineInspector(self._plan)

    def create_runtime_config(self) -> Any:
        return self._fake.module.IRuntimeConfig()

    def create_execution_context(self, strategy: Any = None, runtime_config: Any = None) -> Any:
        if runtime_config is not None:
            strategy = runtime_config._strategy
        assert strategy is not None, "the memory for activations is ours to give"
        assert strategy.name == "USER_MANAGED"
        return self._context()

    def create_execution_context_without_device_memory(self) -> Any:
        return self._context()

    def _context(self) -> Any:
        if self._fake.script.get("context") == "none":
            return self._refuse("no context today")
        return self._fake.module.IExecutionContext(self)

    def _kind(self, name: str) -> Any:
        kind = self._values[name].type.tensor_type.elem_type
        return np.float16 if kind == onnx.TensorProto.FLOAT16 else np.float32

    def __del__(self) -> None:
        if not self._weights:
            return
        cuda = self._fake.script["cuda"]
        if cuda.machine.lost:
            cuda.machine.wrongs.append("an engine was destroyed on a lost GPU")
        elif cuda.context() is None:
            cuda.machine.wrongs.append("an engine was destroyed without context")
        else:
            cuda.machine.free(self._weights)


class Context(Refusing):
    def __init__(self, engine: Engine) -> None:
        self._engine, self._logger = engine, engine._logger
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            engine._plan.onnx, options, providers=["CPUExecutionProvider"]
        )
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._scratch = (0, 0)  # pointer, bytes
        self._running = 0  # enqueued and not done

    @property
    def device_memory(self) -> int:
        return self._scratch[0]

    @device_memory.setter
    def device_memory(self, pointer: int) -> None:
        self._give(pointer, self._engine.device_memory_size)

    def set_device_memory(self, memory: int, size: int) -> None:
        self._give(memory, size)

    def _give(self, pointer: int, size: int) -> None:
        assert not self._running, "running work uses the old memory"
        self._scratch = (pointer, size)

    def update_device_memory_size_for_shapes(self) -> int:
        assert set(self._shapes) == set(INPUTS), "shapes come first"
        return self._needed()

    def set_input_shape(self, name: str, shape: Any) -> Any:
        smallest, _, largest = self._engine._plan.profile[name]
        given = tuple(shape)
        limits = zip(smallest, given, largest, strict=True)
        if not all(low <= size <= high for low, size, high in limits):
            return self._refuse(f"{name} {given} is not in the profile")
        self._shapes[name] = given
        return True

    def set_tensor_address(self, name: str, memory: int) -> Any:
        if name not in self._engine._values or memory % 256:
            return self._refuse(f"no address {memory} for {name}")
        self._addresses[name] = memory
        return True

    def execute_async_v3(self, stream_handle: int) -> Any:
        engine, script = self._engine, self._fake.script
        known = set(self._addresses) == set(engine._values) and set(self._shapes) == set(INPUTS)
        if not known:
            return self._refuse("a tensor has no address, or no shape")
        if self._scratch[1] < self._needed():
            return self._refuse("too little device memory was given")
        if script.get("execute") and not script["execute"].pop(0):
            return self._refuse(script.get("refusal", "not today"))
        shapes, addresses, scratch = dict(self._shapes), dict(self._addresses), self._scratch[0]
        cuda = script["cuda"]
        try:
            cuda.enqueue(stream_handle, lambda: self._run(shapes, addresses, scratch))
        except cuda.driver.Error as fault:
            return self._refuse(f"CUDA: {fault}")
        self._running += 1
        return True

    def _needed(self) -> int:
        windows = self._shapes["image"][0]
        known: dict[int, int] = self._fake.script.get("activations", {})
        return known.get(windows, ACTIVATIONS * windows)

    def _run(
        self, shapes: dict[str, tuple[int, ...]], addresses: dict[str, int], scratch: int
    ) -> None:
        engine, machine = self._engine, self._fake.script["cuda"].machine
        self._running -= 1
        machine.memory(scratch, ACTIVATIONS * shapes["image"][0])[:] = 0xAB  # all is overwritten
        feed = {
            name: machine.array(addresses[name], shapes[name], engine._kind(name)).copy()
            for name in INPUTS
        }
        (logits,) = self._session.run(["logits"], feed)
        machine.array(addresses["logits"], logits.shape, logits.dtype)[:] = logits

    def __del__(self) -> None:
        cuda = self._fake.script.get("cuda")
        if cuda is not None and cuda.machine.lost:
            cuda.machine.wrongs.append("an execution context was destroyed on a lost GPU")


class RuntimeConfig(Recorded):
    dynamic_shapes_kernel_specialization_strategy: Any = None

    def __init__(self) -> None:
        self._strategy: Any = None

    def set_execution_context_allocation_strategy(self, strategy: Any) -> None:
        self._strategy = strategy

    def create_runtime_cache(self) -> Any:
        return self._fake.module.IRuntimeCache()

    def set_runtime_cache(self, cache: Any) -> bool:
        assert type(cache).__name__ == "IRuntimeCache"
        return True


class RuntimeCache(Recorded):
    """Grows by one kernel when it is serialized for the first time in a process."""

    def __init__(self) -> None:
        self._kernels = b""

    def deserialize(self, blob: bytes) -> bool:
        if blob == self._fake.script.get("kernels"):
            return False
        self._kernels = blob
        return True

    def serialize(self) -> Any:
        self._kernels = self._kernels or b"kernels"
        return self._kernels


class Inspector(Recorded):
    def __init__(self, plan: FakePlan) -> None:
        self._plan = plan

    def get_engine_information(self, format: Any) -> str:
        assert format.name == "JSON"
        return json.dumps({"Layers": self._plan.layers, "Bindings": []})


FAKES: dict[str, type] = {
    "EngineInspector": Inspector,
    "ICudaEngine": Engine,
    "IExecutionContext": Context,
    "IRuntimeCache": RuntimeCache,
    "IRuntimeConfig": RuntimeConfig,
    "Runtime": Runtime,
}
