"""Exchange parts of a module without touching the module. Knows no networks."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TypeVar

from torch import Tensor, nn

Module = TypeVar("Module", bound=nn.Module)


def shell(module: Module) -> Module:
    """A module of its own around the same children, parameters and buffers."""
    made = copy.copy(module)
    for registry in ("_modules", "_parameters", "_buffers"):
        made.__dict__[registry] = dict(module.__dict__[registry])
    return made


def with_children(module: Module, **children: nn.Module) -> Module:
    """A shell with some children exchanged."""
    made = shell(module)
    made._modules.update(children)
    return made


def with_weights(module: Module, **weights: Tensor) -> Module:
    """A shell with some parameters exchanged, each rounded once to the type of the old one."""
    made = shell(module)
    for name, weight in weights.items():
        old = made._parameters[name]
        like = next(module.parameters()) if old is None else old
        made._parameters[name] = nn.Parameter(
            weight.detach().to(like.dtype, copy=True), requires_grad=False
        )
    return made


def replaced(module: Module, make: Callable[[nn.Module], nn.Module | None]) -> Module:
    """The module with each descendant exchanged for which `make` gives another, or itself."""
    changed = {}
    for name, child in module._modules.items():
        if child is not None:
            other = make(child)
            made = replaced(child, make) if other is None else other
            if made is not child:
                changed[name] = made
    return with_children(module, **changed) if changed else module
