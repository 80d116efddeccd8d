"""Copies of a module with some parts exchanged; the module itself is never changed."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TypeVar

from torch import Tensor, nn

Module = TypeVar("Module", bound=nn.Module)


def shallow_copy(module: Module) -> Module:
    """Return a new module that holds the same children, parameters and buffers."""
    made = copy.copy(module)
    for registry in ("_modules", "_parameters", "_buffers"):
        made.__dict__[registry] = dict(module.__dict__[registry])
    return made


def with_children(module: Module, **children: nn.Module) -> Module:
    """Return a shallow copy with some children exchanged."""
    made = shallow_copy(module)
    made._modules.update(children)
    return made


def with_weights(module: Module, **weights: Tensor) -> Module:
    """Return a shallow copy with some parameters exchanged, rounded once to the module's dtype."""
    made = shallow_copy(module)
    for name, weight in weights.items():
        old = made._parameters[name]
        like = next(module.parameters()) if old is None else old
        made._parameters[name] = nn.Parameter(
            weight.detach().to(like.dtype, copy=True), requires_grad=False
        )
    return made


def replace_modules(module: Module, replace: Callable[[nn.Module], nn.Module | None]) -> Module:
    """Return the module with each descendant for which `replace` returns another exchanged.

    Returns the module itself if nothing is exchanged.
    """
    changed = {}
    for name, child in module._modules.items():
        if child is not None:
            other = replace(child)
            made = replace_modules(child, replace) if other is None else other
            if made is not child:
                changed[name] = made
    return with_children(module, **changed) if changed else module
