"""TensorRT's runtime and engine, acted."""

from __future__ import annotations

import json
from typing import Any

from fakes.fake_tensorrt import Recorded
from fakes.trt_builder import Log
from fakes.trt_plan import FakePlan, plan_from_bytes


class Runtime(Recorded):
    def __init__(self, logger: Log) -> None:
        assert logger._ready
        self._logger, self._host_code = logger, False

    @property
    def engine_host_code_allowed(self) -> bool:
        return self._host_code

    @engine_host_code_allowed.setter
    def engine_host_code_allowed(self, allowed: bool) -> None:
        self._host_code = allowed

    def deserialize_cuda_engine(self, serialized_engine: Any) -> Any:
        trt = self._fake.module
        plan = plan_from_bytes(bytes(serialized_engine))
        if plan is None:
            self._logger.log(trt.ILogger.Severity.ERROR, "the plan is damaged")
            return None
        if "VERSION_COMPATIBLE" in plan.flags and not self._host_code:
            self._logger.log(trt.ILogger.Severity.ERROR, "host code is not allowed")
            return None
        return trt.ICudaEngine(plan)


class Engine(Recorded):
    def __init__(self, plan: FakePlan) -> None:
        self._plan = plan

    def create_engine_inspector(self) -> Any:
        return self._fake.module.EngineInspector(self._plan)


class Inspector(Recorded):
    def __init__(self, plan: FakePlan) -> None:
        self._plan = plan

    def get_engine_information(self, format: Any) -> str:
        assert format.name == "JSON"
        return json.dumps({"Layers": self._plan.layers, "Bindings": []})


ACTORS: dict[str, type] = {
    "EngineInspector": Inspector,
    "ICudaEngine": Engine,
    "Runtime": Runtime,
}
