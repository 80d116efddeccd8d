"""TensorRT's runtime, engine and execution context, acted over a fake GPU.

An engine runs its ONNX file with ONNX Runtime on the fake GPU's memory, in the order of the stream
it was given. `FakeTensorRT.script` steers it:
    cuda      the FakePycuda whose memory and streams are used; needed to run
    start     the runtime cannot start, with this in the log; using it all the same is a crash
    open      no plan can be opened, with these lines in the log
    context   "none": no context can be made
    execute   a list of truth values, taken one a call; False refuses, with `refusal` in the log
    refusal   that text
    activations  bytes of a batch, by its windows
"""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import numpy as np
import onnx
import onnxruntime
from fakes.fake_tensorrt import Recorded
from fakes.trt_builder import Log
from fakes.trt_plan import FakePlan, plan_from_bytes

ACTIVATIONS = 1000  # bytes a window, unless told
INPUTS = ("image", "dsm")


class Runtime(Recorded):
    def __init__(self, logger: Log) -> None:
        assert logger._ready
        self._logger, self._host_code = logger, False
        if self._fake.script.get("start"):
            self._refused(self._fake.script["start"])

    @property
    def engine_host_code_allowed(self) -> bool:
        return self._host_code

    @engine_host_code_allowed.setter
    def engine_host_code_allowed(self, allowed: bool) -> None:
        self._host_code = allowed

    def deserialize_cuda_engine(self, serialized_engine: Any) -> Any:
        assert not self._fake.script.get("start"), "segmentation fault"
        plan = plan_from_bytes(bytes(serialized_engine))
        compatible = plan is not None and "VERSION_COMPATIBLE" in plan.flags
        if plan is None:
            return self._refused("the plan is damaged")
        if self._fake.script.get("open"):
            return self._refused(self._fake.script["open"])
        if plan.version != self._fake.version and not compatible:
            return self._refused(f"the plan is of {plan.version}")
        if compatible and not self._host_code:
            return self._refused("host code is not allowed")
        cuda = self._fake.script.get("cuda")
        weights = 0
        if cuda is not None:
            try:
                with cuda.calling("TensorRT's weights"):
                    weights = cuda.machine.allocate(len(plan.onnx))
            except cuda.driver.Error as fault:
                return self._refused(f"CUDA: {fault}")
        engine = self._fake.module.ICudaEngine(plan, self._logger)
        engine._weights = weights
        return engine

    def _refused(self, reason: str) -> None:
        for line in reason.splitlines():
            self._logger.log(self._fake.module.ILogger.Severity.ERROR, line)


class Engine(Recorded):
    _weights = 0  # pointer

    def __init__(self, plan: FakePlan, logger: Log) -> None:
        self._plan, self._logger = plan, logger
        graph = onnx.load_from_string(plan.onnx).graph
        self._inputs = {value.name: value for value in graph.input}
        self._outputs = {value.name: value for value in graph.output}
        self._values = {**self._inputs, **self._outputs}

    @property
    def num_io_tensors(self) -> int:
        return len(self._values)

    @property
    def num_optimization_profiles(self) -> int:
        return 1

    @property
    def device_memory_size(self) -> int:
        return ACTIVATIONS * self._plan.profile["image"][2][0]

    @property
    def device_memory_size_v2(self) -> int:
        return ACTIVATIONS * self._plan.profile["image"][2][0]

    def get_tensor_name(self, index: int) -> str:
        return str(list(self._values)[index])

    def get_tensor_mode(self, name: str) -> Any:
        modes = self._fake.module.TensorIOMode
        return modes.INPUT if name in self._inputs else modes.OUTPUT

    def get_tensor_dtype(self, name: str) -> Any:
        types = self._fake.module.DataType
        half = self._kind(name) == np.float16
        return types.HALF if half else types.FLOAT

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

    def create_execution_context(self, strategy: Any = None) -> Any:
        assert strategy is not None, "the memory of activations is ours to give"
        assert strategy.name == "USER_MANAGED"
        return self._made()

    def create_execution_context_without_device_memory(self) -> Any:
        return self._made()

    def _made(self) -> Any:
        if self._fake.script.get("context") == "none":
            self._logger.log(self._fake.module.ILogger.Severity.ERROR, "no context today")
            return None
        return self._fake.module.IExecutionContext(self)

    def _kind(self, name: str) -> Any:
        kind = self._values[name].type.tensor_type.elem_type
        return np.float16 if kind == onnx.TensorProto.FLOAT16 else np.float32

    def __del__(self) -> None:
        if not self._weights:
            return
        cuda, pointer = self._fake.script["cuda"], self._weights
        if cuda.machine.lost:
            cuda.machine.wrongs.append("an engine was destroyed on a lost GPU")
        elif cuda.context() is None:
            cuda.machine.wrongs.append("an engine was destroyed without context")
        else:
            cuda.machine.free(pointer)


class Context(Recorded):
    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            engine._plan.onnx, options, providers=["CPUExecutionProvider"]
        )
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._scratch = (0, 0)  # pointer, bytes
        self._running = 0  # enqueued and not done
        self._sized_for: tuple[int, ...] | None = None  # batch that activations were laid out for

    @property
    def device_memory(self) -> int:
        return self._scratch[0]

    @device_memory.setter
    def device_memory(self, pointer: int) -> None:
        assert not self._running, "what runs has the memory of before"
        self._scratch = (pointer, self._engine.device_memory_size)

    def set_device_memory(self, memory: int, size: int) -> None:
        assert not self._running, "what runs has the memory of before"
        self._scratch = (memory, size)

    def update_device_memory_size_for_shapes(self) -> int:
        assert set(self._shapes) == set(INPUTS), "shapes come first"
        self._sized_for = self._shapes["image"]
        return self._needed()

    def set_input_shape(self, name: str, shape: Any) -> bool:
        smallest, _, largest = self._engine._plan.profile[name]
        given = tuple(shape)
        limits = zip(smallest, given, largest, strict=True)
        if not all(low <= size <= high for low, size, high in limits):
            return self._refused(f"{name} {given} is not in the profile")
        self._shapes[name] = given
        return True

    def set_tensor_address(self, name: str, memory: int) -> bool:
        if name not in self._engine._values or memory % 256:
            return self._refused(f"no address {memory} for {name}")
        self._addresses[name] = memory
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        engine, script = self._engine, self._fake.script
        known = set(self._addresses) == set(engine._values) and set(self._shapes) == set(INPUTS)
        if not known:
            return self._refused("a tensor has no address, or no shape")
        if self._scratch[1] < self._needed():
            return self._refused("too little device memory was given")
        if script.get("execute") and not script["execute"].pop(0):
            return self._refused(script.get("refusal", "not today"))
        work = partial(self._run, dict(self._shapes), dict(self._addresses), self._scratch[0])
        cuda = script["cuda"]
        try:
            cuda.enqueue(stream_handle, work)
        except cuda.driver.Error as fault:
            return self._refused(f"CUDA: {fault}")
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
        windows = shapes["image"][0]
        machine.memory(scratch, ACTIVATIONS * windows)[:] = 0xAB  # all of it is written to
        feed = {
            name: machine.array(addresses[name], shapes[name], engine._kind(name)).copy()
            for name in INPUTS
        }
        (logits,) = self._session.run(["logits"], feed)
        machine.array(addresses["logits"], logits.shape, logits.dtype)[:] = logits

    def _refused(self, reason: str) -> bool:
        self._engine._logger.log(self._fake.module.ILogger.Severity.ERROR, reason)
        return False

    def __del__(self) -> None:
        cuda = self._fake.script.get("cuda")
        if cuda is not None and cuda.machine.lost:
            cuda.machine.wrongs.append("an execution context was destroyed on a lost GPU")


class Inspector(Recorded):
    def __init__(self, plan: FakePlan) -> None:
        self._plan = plan

    def get_engine_information(self, format: Any) -> str:
        assert format.name == "JSON"
        return json.dumps({"Layers": self._plan.layers, "Bindings": []})


ACTORS: dict[str, type] = {
    "EngineInspector": Inspector,
    "ICudaEngine": Engine,
    "IExecutionContext": Context,
    "Runtime": Runtime,
}
