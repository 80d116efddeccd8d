"""TensorRT's builder, ONNX parser and loggers, acted: they check what they are given.

What they do is steered by `FakeTensorRT.script`:
    parse_errors  list of dicts, members of ParserError to values: parsing fails
    log           list of (severity name, message) logged by the build
    build         a callable: called in the midst of the build
    fails         the build fails
    steps         of the phase that the progress monitor is told of, default 4; `pause` seconds
                  each; `reached` is set to how many were done
    cache         "corrupt" or "mismatch": what becomes of a timing cache that was read
    renamed       what the names of a network's layers have behind the names of the nodes
    layers        what the engine inspector lists; default: a layer a node, attention fused
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import onnx
from fakes.fake_tensorrt import Recorded
from fakes.trt_plan import FakePlan, Shapes

HALF, FLOAT = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
CACHE = b"fake timings "


class Log:
    """ILogger: our code derives from it, and must call its `__init__`."""

    def __init__(self) -> None:
        self._ready = True

    def log(self, severity: Any, msg: str) -> None:
        raise NotImplementedError("ILogger.log must be overridden")


class StandardLog(Log):
    """Logger: as ILogger, printing."""

    def __init__(self, min_severity: Any = None) -> None:
        super().__init__()
        self.min_severity = min_severity

    def log(self, severity: Any, msg: str) -> None:
        print(f"[TRT] {severity.name}: {msg}")


class Monitor:
    """IProgressMonitor: our code derives from it, and must call its `__init__`."""

    def __init__(self) -> None:
        self._ready = True


class Memory(Recorded, bytes):
    """IHostMemory: a buffer."""

    @property
    def nbytes(self) -> int:
        return bytes.__len__(self)


class Tensor(Recorded):
    def __init__(self, value: onnx.ValueInfoProto, dtype: Any) -> None:
        sizes = value.type.tensor_type.shape.dim
        self._values = {"name": value.name, "dtype": dtype}
        self._shape = tuple(size.dim_value if size.HasField("dim_value") else -1 for size in sizes)

    @property
    def name(self) -> str:
        return str(self._values["name"])

    @property
    def dtype(self) -> Any:
        return self._values["dtype"]

    @property
    def shape(self) -> tuple[int, ...]:
        return self._shape


class Layer(Recorded):
    """One for each node of the file, and named as the node."""

    def __init__(self, node: onnx.NodeProto) -> None:
        self._node, self._precision = node, None

    @property
    def name(self) -> str:
        return self._node.name + str(self._fake.script.get("renamed", ""))

    @property
    def num_outputs(self) -> int:
        return len(self._node.output)

    @property
    def precision(self) -> Any:
        return self._precision

    @precision.setter
    def precision(self, kind: Any) -> None:
        self._precision = kind

    def set_output_type(self, index: int, dtype: Any) -> None:
        assert index < self.num_outputs
        assert type(dtype).__name__ == "DataType"


class Network(Recorded):
    def __init__(self, flags: int) -> None:
        self._flags = flags
        self._model: onnx.ModelProto | None = None
        self._inputs: list[Tensor] = []
        self._outputs: list[Tensor] = []
        self._layers: list[Layer] = []

    @property
    def num_layers(self) -> int:
        return len(self._layers)

    def get_layer(self, index: int) -> Layer:
        return self._layers[index]

    @property
    def num_inputs(self) -> int:
        return len(self._inputs)

    @property
    def num_outputs(self) -> int:
        return len(self._outputs)

    def get_input(self, index: int) -> Tensor:
        return self._inputs[index]

    def get_output(self, index: int) -> Tensor:
        return self._outputs[index]


class ParserFault(Recorded):
    def __init__(self, said: dict[str, Any]) -> None:
        self._said = said

    def desc(self) -> str:
        return str(self._said.get("desc", ""))

    def node(self) -> int:
        return int(self._said.get("node", -1))

    def node_name(self) -> str:
        return str(self._said.get("node_name", ""))

    def node_operator(self) -> str:
        return str(self._said.get("node_operator", ""))


class Parser(Recorded):
    def __init__(self, network: Network, logger: Log) -> None:
        assert logger._ready
        self._network, self._errors = network, list[ParserFault]()

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> ParserFault:
        return self._errors[index]

    def set_flag(self, flag: Any) -> None:
        assert type(flag).__name__ == "OnnxParserFlag"

    def parse_from_file(self, model: str) -> bool:
        assert isinstance(model, str)
        trt, script = self._fake.module, self._fake.script
        self._errors = [trt.ParserError(said) for said in script.get("parse_errors", ())]
        if self._errors:
            return False
        found = onnx.load(Path(model))  # weights beside it too
        kinds = {HALF: trt.DataType.HALF, FLOAT: trt.DataType.FLOAT}
        for values, tensors in (
            (found.graph.input, self._network._inputs),
            (found.graph.output, self._network._outputs),
        ):
            tensors += [trt.ITensor(v, kinds[v.type.tensor_type.elem_type]) for v in values]
        self._network._layers = [trt.ILayer(node) for node in found.graph.node]
        self._network._model = found
        return True


class Profile(Recorded):
    def __init__(self) -> None:
        self._shapes: dict[str, Shapes] = {}

    def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:
        self._shapes[input] = (tuple(min), tuple(opt), tuple(max))


class Cache(Recorded):
    def __init__(self, content: bytes) -> None:
        self._content = content

    def serialize(self) -> Any:
        return self._fake.module.IHostMemory(self._content)


class Config(Recorded):
    def __init__(self) -> None:
        trt = self._fake.module
        self._flags = {"TF32"}  # on unless cleared, as in TensorRT
        self._profiles: list[Profile] = []
        self._cache: Cache | None = None
        self._sources = sum(1 << int(source) for source in trt.TacticSource.__members__.values())
        self._level = trt.HardwareCompatibilityLevel.NONE
        self._monitor: Any = None
        self._verbosity = trt.ProfilingVerbosity.LAYER_NAMES_ONLY
        self._optimization = 3

    def set_flag(self, flag: Any) -> None:
        assert type(flag).__name__ == "BuilderFlag"
        self._flags.add(flag.name)

    def clear_flag(self, flag: Any) -> None:
        assert type(flag).__name__ == "BuilderFlag"
        self._flags.discard(flag.name)

    def add_optimization_profile(self, profile: Profile) -> int:
        self._profiles.append(profile)
        return len(self._profiles) - 1

    def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
        assert type(pool).__name__ == "MemoryPoolType"
        assert isinstance(pool_size, int)

    def get_tactic_sources(self) -> int:
        return self._sources

    def set_tactic_sources(self, tactic_sources: int) -> bool:
        self._sources = tactic_sources
        return True

    def create_timing_cache(self, serialized_timing_cache: bytes) -> Cache | None:
        given, script = bytes(serialized_timing_cache), self._fake.script
        if given and script.get("cache") == "corrupt":
            return None
        cache: Cache = self._fake.module.ITimingCache(given or CACHE)
        return cache

    def set_timing_cache(self, cache: Cache, ignore_mismatch: bool) -> bool:
        if cache._content != CACHE and self._fake.script.get("cache") == "mismatch":
            return ignore_mismatch
        self._cache = cache
        return True

    def get_timing_cache(self) -> Cache | None:
        return self._cache

    @property
    def builder_optimization_level(self) -> int:
        return self._optimization

    @builder_optimization_level.setter
    def builder_optimization_level(self, level: int) -> None:
        self._optimization = level

    @property
    def profiling_verbosity(self) -> Any:
        return self._verbosity

    @profiling_verbosity.setter
    def profiling_verbosity(self, value: Any) -> None:
        self._verbosity = value

    @property
    def hardware_compatibility_level(self) -> Any:
        return self._level

    @hardware_compatibility_level.setter
    def hardware_compatibility_level(self, level: Any) -> None:
        self._level = level

    @property
    def progress_monitor(self) -> Any:
        return self._monitor

    @progress_monitor.setter
    def progress_monitor(self, monitor: Any) -> None:
        assert monitor._ready
        self._monitor = monitor


class Builder(Recorded):
    def __init__(self, logger: Log) -> None:
        assert logger._ready
        self._logger = logger

    def create_network(self, flags: int = 0) -> Network:
        network: Network = self._fake.module.INetworkDefinition(flags)
        return network

    def create_builder_config(self) -> Config:
        config: Config = self._fake.module.IBuilderConfig()
        return config

    def create_optimization_profile(self) -> Profile:
        profile: Profile = self._fake.module.IOptimizationProfile()
        return profile

    def build_serialized_network(self, network: Network, config: Config) -> Any:
        trt, script = self._fake.module, self._fake.script
        for severity, message in script.get("log", ()):
            self._logger.log(trt.ILogger.Severity.__members__[severity], message)
        fault = self._fault(network, config)
        if fault:
            self._logger.log(trt.ILogger.Severity.ERROR, fault)
            return None
        if callable(script.get("build")):
            script["build"]()
        if not self._progress(config):
            self._logger.log(trt.ILogger.Severity.ERROR, "the build was cancelled")
            return None
        if script.get("fails"):
            return None
        if config._cache is not None:
            config._cache._content += b"and more "
        model = network._model
        assert model is not None
        plan = FakePlan(
            self._fake.version,
            model.SerializeToString(),
            config._profiles[0]._shapes,
            frozenset(config._flags),
            config._level.name,
            script.get("layers", self._layers(model, config)),
        )
        return trt.IHostMemory(plan.to_bytes())

    def _progress(self, config: Config) -> bool:
        """Whether the monitor lets the build go on to its end."""
        monitor, script = config._monitor, self._fake.script
        steps = script.get("steps", 4)
        if monitor is None:
            time.sleep(script.get("pause", 0))
            return True
        monitor.phase_start("Building", None, steps)
        monitor.phase_start("Timing", "Building", 1)
        going = monitor.step_complete("Timing", 0)
        monitor.phase_finish("Timing")
        for step in range(steps):
            time.sleep(script.get("pause", 0))
            script["reached"] = step + 1
            going = going and monitor.step_complete("Building", step)
            if not going:
                break
        monitor.phase_finish("Building")
        return bool(going)

    def _fault(self, network: Network, config: Config) -> str:
        """What TensorRT would refuse to build."""
        trt = self._fake.module
        created = trt.NetworkDefinitionCreationFlag
        typed = hasattr(created, "STRONGLY_TYPED")
        mode = created.STRONGLY_TYPED if typed else created.EXPLICIT_BATCH
        halves = any(tensor.dtype == trt.DataType.HALF for tensor in network._inputs)
        dynamic = {tensor.name for tensor in network._inputs if -1 in tensor.shape}
        if not network._flags & 1 << int(mode):
            return f"the network is not {mode.name}"
        if halves and not typed and "FP16" not in config._flags:
            return "an input is FP16, but the flag FP16 is not set"
        if typed and "FP16" in config._flags:
            return "a strongly typed network takes no precision flags"
        if not config._profiles or set(config._profiles[0]._shapes) != dynamic:
            return "no optimization profile for a dynamic input"
        return ""

    def _layers(self, model: onnx.ModelProto, config: Config) -> list[Any]:
        kinds = [node.op_type for node in model.graph.node]
        fused = {"Softmax": "_gemm_mha_v2_myl0"}
        names = [f"{fused.get(kind, f'__myl_{kind}')}_{i}" for i, kind in enumerate(kinds)]
        if config._verbosity != self._fake.module.ProfilingVerbosity.DETAILED:
            return names
        return [{"Name": name, "LayerType": "kgen", "TacticName": f"{name}_0x1"} for name in names]


ACTORS: dict[str, type] = {
    "Builder": Builder,
    "IBuilderConfig": Config,
    "IHostMemory": Memory,
    "ILayer": Layer,
    "ILogger": Log,
    "INetworkDefinition": Network,
    "IOptimizationProfile": Profile,
    "IProgressMonitor": Monitor,
    "ITensor": Tensor,
    "ITimingCache": Cache,
    "Logger": StandardLog,
    "OnnxParser": Parser,
    "ParserError": ParserFault,
}
