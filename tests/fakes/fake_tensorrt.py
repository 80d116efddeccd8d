"""A module that stands for TensorRT: it has what a recorded version has, and nothing else.

`trt_api/*.json` say what there is (`record_trt_api.py` wrote them). A name that the version lacks
raises AttributeError, as TensorRT would, so `hasattr` gates work; a call with arguments that fit
no signature raises TypeError; a name that exists but that no fake class acts raises
NotImplementedError. Every call and every property set is recorded in `calls`.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

RECORDED = Path(__file__).parent / "trt_api"
VERSIONS = ("8.6", "10.13", "11.4")
LEAN = "11.4-lean"
Members = dict[str, Any]  # of one class, as recorded


@dataclass(frozen=True)
class Call:
    """One call of a method, or one property set (`IBuilderConfig.flags=`)."""

    name: str  # IBuilderConfig.set_flag
    args: tuple[Any, ...]


@dataclass
class FakeTensorRT:
    """The module and what a test does with it."""

    module: ModuleType
    version: str  # 10.13.3.9
    calls: list[Call] = field(default_factory=list)
    script: dict[str, Any] = field(default_factory=dict)  # how fake classes are to behave

    def called(self, name: str) -> list[tuple[Any, ...]]:
        """Arguments of every call of `Class.method`, in order."""
        return [call.args for call in self.calls if call.name == name]

    def install(self, monkeypatch: pytest.MonkeyPatch, name: str = "tensorrt") -> FakeTensorRT:
        """Make `import tensorrt` find it until the test ends."""
        monkeypatch.setitem(sys.modules, name, self.module)
        return self


class Recorded:
    """Root of fake classes: only recorded members can be reached.

    Members that begin with an underscore are the fake's own. `_fake` is the `FakeTensorRT`.
    """

    _api: Members
    _fake: FakeTensorRT

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("_"):
            return object.__getattribute__(self, name)
        kind = type(self)
        kind._require(name)
        try:
            value = object.__getattribute__(self, name)
        except AttributeError as fault:
            raise NotImplementedError(f"no fake acts {kind.__name__}.{name}") from fault
        signatures = kind._api[name]
        if not isinstance(signatures, list):
            return value

        def call(*args: Any, **named: Any) -> Any:
            fitted = _fitted(signatures, args, named)
            kind._fake.calls.append(Call(f"{kind.__name__}.{name}", fitted))
            return value(*args, **named)

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


def _fitted(signatures: list[str], args: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, ...]:
    """Arguments in the order of the first signature that takes them.

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
    """Raises for names of the version that nothing acts."""

    _names: frozenset[str]

    def __getattr__(self, name: str) -> Any:
        if name in self._names:
            raise NotImplementedError(f"no fake acts {self.__name__}.{name}")
        raise AttributeError(f"module {self.__name__} {self.__version__} has no {name}")


def fake_tensorrt(version: str) -> FakeTensorRT:
    """A fake of a recorded version: one of `VERSIONS`, or `LEAN`."""
    from fakes.trt_builder import ACTORS as builder
    from fakes.trt_runtime import ACTORS as runtime

    actors: dict[str, type] = {**builder, **runtime}
    api = json.loads((RECORDED / f"{version}.json").read_text())
    module = _Module("tensorrt")
    module.__spec__ = ModuleSpec("tensorrt", None)
    module.__version__ = api["version"]  # type: ignore[attr-defined]
    module._names = frozenset(api["names"])
    fake = FakeTensorRT(module, api["version"])
    for name, members in api["classes"].items():
        if all(isinstance(value, int) for value in members.values()):
            setattr(module, name, _enumeration(name, members))
        elif name in actors:
            setattr(module, name, _class(actors[name], name, members, fake))
    return fake


class EnumValue:
    """As pybind11's: `int(value)` works, arithmetic and iterating over the class do not."""

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
    values = {name: kind(name, value) for name, value in members.items()}
    for member, value in values.items():
        setattr(kind, member, value)
    kind.__members__ = values
    return kind


def _class(actor: type, name: str, members: Members, fake: FakeTensorRT) -> type:
    inner: dict[str, type[EnumValue]] = {
        key: _enumeration(key, given) for key, given in members.items() if isinstance(given, dict)
    }
    values = {
        key: value
        for kind in inner.values()
        for key, value in kind.__members__.items()
        if key in members
    }
    return type(name, (actor,), {"_api": members, "_fake": fake, **inner, **values})
