"""TensorRT's builder and ONNX parser, simulated: they check what they are given.

`FakeTensorRT.script` controls them:
    parse_errors  list of dicts, members of ParserError to values: parsing fails
    log           list of (severity name, message) that the build logs
    build         a callable that the build calls
    fails         the build fails
    steps         of the phase reported to the progress monitor, default 4; `pause` seconds each;
                  `reached` is set to the number done
    cache         "corrupt" or "mismatch": the state of a timing cache that was read
    renamed       suffix of the network's layers after the names of the nodes
    layers        what the engine inspector lists; default: a layer per node, attention fused
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import onnx
from fakes.fake_tensorrt import FakePlan, Log, Recorded, Shapes

HALF, FLOAT = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
CACHE = b"fake timings "


class Monitor:
    """IProgressMonitor: our code derives from it, and must call its `__init__`."""

    def __init__(self) -> None:
        self._ready = True


class HostMemory(Recorded, bytes):
    @property
    def nbytes(self) -> int:
        return bytes.__len__(self)


class Tensor(Recorded):
    def __init__(self, value: onnx.ValueInfoProto, dtype: Any) -> None:
        sizes = value.type.tensor_type.shape.dim
        shape = tuple(size.dim_value if size.HasField("dim_value") else -1 for size in sizes)
        vars(self).update(name=value.name, dtype=dtype, shape=shape)


class Layer(Recorded):
    """One for each node of the file, named like it."""

    precision = None

    def __init__(self, node: onnx.NodeProto) -> None:
        name = node.name + self._fake.script.get("renamed", "")
        vars(self).update(name=name, num_outputs=len(node.output))

    def set_output_type(self, index: int, dtype: Any) -> None:
        assert index < self.num_outputs
        assert type(dtype).__name__ == "DataType"


class Network(Recorded):
    def __init__(self, flags: int) -> None:
        self._flags = flags
        self._model = onnx.ModelProto()
        self._inputs: list[Tensor] = []
        self._outputs: list[Tensor] = []
        self._layers: list[Layer] = []

    @property
    def num_layers(self) -> int:
        return len(self._layers)

    @property
    def num_inputs(self) -> int:
        return len(self._inputs)

    @property
    def num_outputs(self) -> int:
        return len(self._outputs)

    def get_layer(self, index: int) -> Layer:
        return self._layers[index]

    def get_input(self, index: int) -> Tensor:
        return self._inputs[index]

    def get_output(self, index: int) -> Tensor:
        return self._outputs[index]


class ParserError(Recorded):
    def __init__(self, said: dict[str, Any]) -> None:
        self._said = {"desc": "", "node": -1, "node_name": "", "node_operator": "", **said}

    def desc(self) -> Any:
        return self._said["desc"]

    def node(self) -> Any:
        return self._said["node"]

    def node_name(self) -> Any:
        return self._said["node_name"]

    def node_operator(self) -> Any:
        return self._said["node_operator"]


class Parser(Recorded):
    def __init__(self, network: Network, logger: Log) -> None:
        assert logger._ready
        self._network, self._errors = network, list[Any]()

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> Any:
        return self._errors[index]

    def set_flag(self, flag: Any) -> None:
        assert type(flag).__name__ == "OnnxParserFlag"

    def parse_from_file(self, model: str) -> bool:
        assert isinstance(model, str)
        trt, network = self._fake.module, self._network
        self._errors = [trt.ParserError(said) for said in self._fake.script.get("parse_errors", ())]
        if self._errors:
            return False
        network._model = onnx.load(Path(model))  # with weights beside it
        kinds = {HALF: trt.DataType.HALF, FLOAT: trt.DataType.FLOAT}
        graph = network._model.graph
        for values, tensors in ((graph.input, network._inputs), (graph.output, network._outputs)):
            tensors += [trt.ITensor(v, kinds[v.type.tensor_type.elem_type]) for v in values]
        network._layers = [trt.ILayer(node) for node in graph.node]
        return True


class Profile(Recorded):
    def __init__(self) -> None:
        self._shapes: dict[str, Shapes] = {}

    def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:
        self._shapes[input] = (tuple(min), tuple(opt), tuple(max))


class TimingCache(Recorded):
    def __init__(self, content: bytes) -> None:
        self._content = content

    def serialize(self) -> Any:
        return self._fake.module.IHostMemory(self._content)


class Config(Recorded):
    builder_optimization_level = 3
    progress_monitor: Any = None

    def __init__(self) -> None:
        trt = self._fake.module
        self._flags = {"TF32"}  # set by default, as in TensorRT
        self._profiles: list[Profile] = []
        self._cache: TimingCache | None = None
        self._sources = sum(1 << int(source) for source in trt.TacticSource.__members__.values())
        vars(self).update(
            hardware_compatibility_level=trt.HardwareCompatibilityLevel.NONE,
            profiling_verbosity=trt.ProfilingVerbosity.LAYER_NAMES_ONLY,
        )

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

    def create_timing_cache(self, serialized_timing_cache: bytes) -> Any:
        given = bytes(serialized_timing_cache)
        if given and self._fake.script.get("cache") == "corrupt":
            return None
        return self._fake.module.ITimingCache(given or CACHE)

    def set_timing_cache(self, cache: TimingCache, ignore_mismatch: bool) -> bool:
        if cache._content != CACHE and self._fake.script.get("cache") == "mismatch":
            return ignore_mismatch
        self._cache = cache
        return True

    def get_timing_cache(self) -> Any:
        return self._cache


class Builder(Recorded):
    def __init__(self, logger: Log) -> None:
        assert logger._ready
        self._logger = logger

    def create_network(self, flags: int = 0) -> Any:
        return self._fake.module.INetworkDefinition(flags)

    def create_builder_config(self) -> Any:
        return self._fake.module.IBuilderConfig()

    def create_optimization_profile(self) -> Any:
        return self._fake.module.IOptimizationProfile()

    def build_serialized_network(self, network: Network, config: Config) -> Any:
        trt, script = self._fake.module, self._fake.script
        severities = trt.ILogger.Severity
        for severity, message in script.get("log", ()):
            self._logger.log(severities.__members__[severity], message)
        fault = self._fault(network, config)
        if not fault:
            script.get("build", lambda: None)()
            fault = "" if self._complete(config) else "the build was cancelled"
        if fault:
            self._logger.log(severities.ERROR, fault)
        if fault or script.get("fails"):
            return None
        if config._cache is not None:
            config._cache._content += b"and more "
        plan = FakePlan(
            self._fake.version,
            network._model.SerializeToString(),
            config._profiles[0]._shapes,
            frozenset(config._flags),
            config.hardware_compatibility_level.name,
            script.get("layers", self._layers(network._model, config)),
        )
        return trt.IHostMemory(plan.to_bytes())

    def _complete(self, config: Config) -> bool:
        """Report progress; return False if the monitor cancels the build."""
        monitor, script = config.__dict__.get("progress_monitor"), self._fake.script
        steps = script.get("steps", 4)
        if monitor is None:
            time.sleep(script.get("pause", 0))
            return True
        assert monitor._ready
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
        """Return why TensorRT would refuse to build."""
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
        if config.profiling_verbosity != self._fake.module.ProfilingVerbosity.DETAILED:
            return names
        return [{"Name": name, "LayerType": "kgen", "TacticName": f"{name}_0x1"} for name in names]


FAKES: dict[str, type] = {
    "Builder": Builder,
    "IBuilderConfig": Config,
    "IHostMemory": HostMemory,
    "ILayer": Layer,
    "ILogger": Log,
    "INetworkDefinition": Network,
    "IOptimizationProfile": Profile,
    "IProgressMonitor": Monitor,
    "ITensor": Tensor,
    "ITimingCache": TimingCache,
    "OnnxParser": Parser,
    "ParserError": ParserError,
}
