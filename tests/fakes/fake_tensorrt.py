"""A module in place of TensorRT that has what a recorded version has, and nothing else.

`trt_api/*.json` list what each version has (written by `record_trt_api.py`). A name that the
version lacks raises AttributeError, as in TensorRT, so `hasattr` checks work; arguments that fit
no signature raise TypeError; a name that exists but that no class here simulates raises
NotImplementedError. Every call and every property set is recorded in `calls`.
"""

from __future__ import annotations

import json
import pickle
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

RECORDED = Path(__file__).parent / "trt_api"
BUILDERS = ("8.6", "10.13", "11.4")  # whose builders are simulated
RTX = "rtx-1.7"
VERSIONS = (*BUILDERS, RTX)
LEAN = "11.4-lean"
MAGIC = b"fake plan\0"
Members = dict[str, Any]  # of one class, as recorded
Shapes = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]  # min, opt, max


@dataclass(frozen=True)
class Call:
    """One call of a method, or one property set (`IBuilderConfig.flags=`)."""

    name: str  # IBuilderConfig.set_flag
    args: tuple[Any, ...]


@dataclass
class FakeTensorRT:
    """The module, and how a test controls it."""

    module: ModuleType
    version: str  # 10.13.3.9
    calls: list[Call] = field(default_factory=list)
    script: dict[str, Any] = field(default_factory=dict)  # see trt_builder and trt_runtime

    @property
    def flavour(self) -> str:
        return "rtx" if self.module.__name__ == "tensorrt_rtx" else "tensorrt"

    def called(self, name: str) -> list[tuple[Any, ...]]:
        """Return the arguments of every call of `Class.method`, in order."""
        return [call.args for call in self.calls if call.name == name]

    def install(self, monkeypatch: pytest.MonkeyPatch, name: str | None = None) -> FakeTensorRT:
        """Make `import tensorrt`, or another name, find it until the test ends."""
        self.module.__name__ = name or self.module.__name__
        monkeypatch.setitem(sys.modules, self.module.__name__, self.module)
        return self


@dataclass(frozen=True)
class FakePlan:
    """What a plan holds: enough to run the network."""

    version: str  # that built it
    onnx: bytes  # with weights
    profile: dict[str, Shapes]
    version_compatible: bool = False
    layers: Sequence[str] = ()  # names, as the inspector lists them

    def to_bytes(self) -> bytes:
        return MAGIC + pickle.dumps(self)


class Recorded:
    """Base of the simulated classes: only recorded members can be reached.

    Members that begin with an underscore are the fake's own. `_fake` is the `FakeTensorRT`.
    Properties without code of their own are plain attributes.
    """

    _api: Members
    _fake: FakeTensorRT
    _told = False  # methods without code only record their calls

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("_"):
            return object.__getattribute__(self, name)
        kind = type(self)
        kind._require(name)
        try:
            value = object.__getattribute__(self, name)
        except AttributeError as fault:
            if not (kind._told and isinstance(kind._api[name], list)):
                raise NotImplementedError(f"{kind.__name__}.{name} is not simulated") from fault
            value = None
        signatures = kind._api[name]
        if not isinstance(signatures, list):
            return value

        def call(*args: Any, **named: Any) -> Any:
            fitted = _fitted(signatures, args, named)
            kind._fake.calls.append(Call(f"{kind.__name__}.{name}", fitted))
            return value(*args, **named) if value else True

        return call

    def __setattr__(self, name: str, value: Any) -> None:
        kind = type(self)
        if not name.startswith("_"):
            kind._require(name)
            if kind._api[name] != "get set":
                raise AttributeError(f"{kind.__name__}.{name} cannot be set")
            kind._fake.calls.append(Call(f"{kind.__name__}.{name}=", (value,)))
        object.__setattr__(self, name, value)

    @classmethod
    def _require(cls, name: str) -> None:
        if name not in cls._api:
            raise AttributeError(f"{cls.__name__} of {cls._fake.version} has no {name}")


class Log:
    """ILogger: our code derives from it, and must call its `__init__`."""

    def __init__(self) -> None:
        self._ready = True

    def log(self, severity: Any, msg: str) -> None:
        raise NotImplementedError("ILogger.log must be overridden")


def _fitted(signatures: list[str], args: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, ...]:
    """Return the arguments in the order of the first signature that takes them.

    Raises:
        TypeError: none does.
    """
    for signature in signatures:
        names = [name for name in signature.split(", ") if name]
        required = [name for name in names if not name.endswith("=")]
        plain = [name.removesuffix("=") for name in names]
        given = dict(zip(plain, args, strict=False)) | named
        if len(args) <= len(plain) and set(required) <= set(given) <= set(plain):
            return tuple(given[name] for name in plain if name in given)
    raise TypeError(f"arguments {args} {named} fit none of {signatures}")


class _Module(ModuleType):
    """Raises for names of the version that are not simulated."""

    _names: frozenset[str]

    def __getattr__(self, name: str) -> Any:
        if name in self._names:
            raise NotImplementedError(f"{self.__name__}.{name} is not simulated")
        raise AttributeError(f"module {self.__name__} {self.__version__} has no {name}")


def fake_tensorrt(version: str) -> FakeTensorRT:
    """Make a fake of a recorded version: one of `VERSIONS`, or `LEAN`."""
    from fakes import trt_builder, trt_runtime

    api = json.loads((RECORDED / f"{version}.json").read_text())
    name = "tensorrt_rtx" if version == RTX else "tensorrt"
    module = _Module(name)
    module.__spec__ = ModuleSpec(name, None)
    module.__version__ = api["version"]  # type: ignore[attr-defined]
    module._names = frozenset(api["names"])
    fake = FakeTensorRT(module, api["version"])
    kinds = {**trt_builder.FAKES, **trt_runtime.FAKES}
    for name, members in api["classes"].items():
        if all(isinstance(value, int) for value in members.values()):
            setattr(module, name, _enumeration(name, members))
        elif name in kinds:
            inner = {
                key: _enumeration(key, given)
                for key, given in members.items()
                if isinstance(given, dict)
            }
            values = {key: v for kind in inner.values() for key, v in kind.__members__.items()}
            known = {key: value for key, value in values.items() if key in members}
            own = {"_api": members, "_fake": fake, **inner, **known}
            setattr(module, name, type(name, (kinds[name],), own))
    return fake


class EnumValue:
    """Like pybind11's: `int(value)` works, arithmetic and iterating over the class do not."""

    __members__: dict[str, EnumValue]

    def __init__(self, name: str, value: int) -> None:
        self.name, self.value = name, value

    def __int__(self) -> int:
        return self.value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, type(self)) and self.value == other.value

    def __hash__(self) -> int:
        return self.value

    def __repr__(self) -> str:
        return f"{type(self).__name__}.{self.name}"


def _enumeration(name: str, members: dict[str, int]) -> type[EnumValue]:
    kind: type[EnumValue] = type(name, (EnumValue,), {})
    kind.__members__ = {name: kind(name, value) for name, value in members.items()}
    for member, value in kind.__members__.items():
        setattr(kind, member, value)
    return kind
