"""Builder and ONNX parser of full TensorRT, acted: the real one needs a GPU even to build.

They record what they are told and build plans that `trt_runtime` runs. `FakeTensorRT.script`:
    log      list of (severity name, message) that the build logs
    build    a callable that the build calls
    fails    the build fails
    cache    "corrupt" or "mismatch": the state of a timing cache that was read
    renamed  suffix of the network's layers after the names of the nodes
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
from fakes.fake_tensorrt import FakePlan, Log, Recorded

HALF = onnx.TensorProto.FLOAT16
CACHE = b"fake timings "


class Told(Recorded):
    """Takes any call and setting that its version has."""

    _told = True


class Tensor(Recorded):
    def __init__(self, value: onnx.ValueInfoProto) -> None:
        kind, types = value.type.tensor_type, self._fake.module.DataType
        sizes = (size.dim_value if size.HasField("dim_value") else -1 for size in kind.shape.dim)
        dtype = types.HALF if kind.elem_type == HALF else types.FLOAT
        vars(self).update(name=value.name, dtype=dtype, shape=tuple(sizes))


class Layer(Told):
    """One for each node of the file, named like it."""

    def __init__(self, node: onnx.NodeProto) -> None:
        name = node.name + self._fake.script.get("renamed", "")
        vars(self).update(name=name, num_outputs=len(node.output))


class Network(Recorded):
    _model: onnx.ModelProto

    def _read(self, model: onnx.ModelProto) -> None:
        trt, graph, self._model = self._fake.module, model.graph, model
        self._layers = [trt.ILayer(node) for node in graph.node]
        self._inputs, self._outputs = (
            [trt.ITensor(value) for value in values] for values in (graph.input, graph.output)
        )
        counts = {"layers": self._layers, "inputs": self._inputs, "outputs": self._outputs}
        vars(self).update({f"num_{name}": len(found) for name, found in counts.items()})

    def get_layer(self, index: int) -> Any:
        return self._layers[index]

    def get_input(self, index: int) -> Any:
        return self._inputs[index]

    def get_output(self, index: int) -> Any:
        return self._outputs[index]


class Parser(Told):
    def __init__(self, network: Network, logger: Log) -> None:
        self._network = network

    def parse_from_file(self, model: str) -> bool:
        self._network._read(onnx.load(Path(model)))
        return True


class TimingCache(Recorded):
    def __init__(self, content: bytes) -> None:
        self._content = content

    def serialize(self) -> bytes:
        return self._content


class Config(Told):
    _cache: TimingCache | None = None

    def get_tactic_sources(self) -> int:
        return sum(1 << int(kind) for kind in self._fake.module.TacticSource.__members__.values())

    def create_timing_cache(self, serialized_timing_cache: bytes) -> Any:
        if serialized_timing_cache and self._fake.script.get("cache") == "corrupt":
            return None
        return self._fake.module.ITimingCache(serialized_timing_cache or CACHE)

    def set_timing_cache(self, cache: TimingCache, ignore_mismatch: bool) -> bool:
        if cache._content != CACHE and self._fake.script.get("cache") == "mismatch":
            return ignore_mismatch
        self._cache = cache
        return True

    def get_timing_cache(self) -> Any:
        return self._cache


class Builder(Recorded):
    def __init__(self, logger: Log) -> None:
        self._logger, self._first = logger, len(self._fake.calls)

    def create_network(self, flags: int = 0) -> Any:
        return self._fake.module.INetworkDefinition()

    def create_builder_config(self) -> Any:
        return self._fake.module.IBuilderConfig()

    def create_optimization_profile(self) -> Any:
        return self._fake.module.IOptimizationProfile()

    def build_serialized_network(self, network: Network, config: Config) -> bytes | None:
        fake, script = self._fake, self._fake.script
        for severity, message in script.get("log", ()):
            self._logger.log(fake.module.ILogger.Severity.__members__[severity], message)
        script.get("build", lambda: None)()
        if script.get("fails"):
            return None
        if config._cache is not None:
            config._cache._content += b"and more "
        told = fake.calls[self._first :]
        kinds = [node.op_type for node in network._model.graph.node]
        return FakePlan(
            version=fake.version,
            onnx=network._model.SerializeToString(),
            profile={
                call.args[0]: call.args[1:]
                for call in told
                if call.name == "IOptimizationProfile.set_shape"
            },
            version_compatible=any(
                call.name == "IBuilderConfig.set_flag" and call.args[0].name == "VERSION_COMPATIBLE"
                for call in told
            ),
            layers=["_gemm_mha_v2_0" if kind == "Softmax" else kind for kind in kinds],
        ).to_bytes()


class Monitor:
    """IProgressMonitor, which reports nothing."""


FAKES: dict[str, type] = {
    "Builder": Builder,
    "IBuilderConfig": Config,
    "ILayer": Layer,
    "ILogger": Log,
    "INetworkDefinition": Network,
    "IOptimizationProfile": Told,
    "IProgressMonitor": Monitor,
    "ITensor": Tensor,
    "ITimingCache": TimingCache,
    "OnnxParser": Parser,
}
