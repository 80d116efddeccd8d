"""A network rewritten into an equal one of fewer operations, by named exact steps.

Every step is algebra, not approximation (DESIGN 4): it takes a network and returns an equal one,
or the very same object where there is nothing to do. Modules and weights that a step leaves alone
are shared with the original, which stays as it was. Knows no ONNX and no files.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor, nn

from mfnet.encoder import resized_position
from mfnet.network import MFNet
from mfnet_runtime.errors import UsageError

Module = TypeVar("Module", bound=nn.Module)


@dataclass(frozen=True)
class Step:
    """One rewrite: its name on the command line, what it does, and the doing."""

    name: str
    says: str
    run: Callable[[MFNet], MFNet]


@dataclass(frozen=True, eq=False)
class Merged:
    """A rewritten network and the names of the steps that changed something, in order."""

    network: MFNet
    steps: tuple[str, ...]


class SpatialMean(nn.Module):
    """Mean over rows and columns: pooling to 1 x 1, which torch exports as an index computation."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, 1, 1)."""
        return x.mean((2, 3), keepdim=True)


def with_merged_tuning(network: MFNet) -> MFNet:
    """Fold what fine-tuning added into the block's own products (DESIGN 4.1 to 4.3)."""
    encoder = shell(network.encoder)
    encoder.merge()
    pairs = zip(encoder.tuning, network.encoder.tuning, strict=True)
    if all(after is before for after, before in pairs):
        return network
    return with_children(network, encoder=encoder)


def with_window_position(network: MFNet) -> MFNet:
    """Resize the position embedding to the window's grid once, not at every call (DESIGN 4.6)."""
    position = network.encoder.sam.pos_embed.detach()
    resized = resized_position(position, network.config.grid)
    if resized.shape == position.shape:
        return network
    sam = shell(network.encoder.sam)
    sam.pos_embed = nn.Parameter(resized.contiguous(), requires_grad=False)
    return with_children(network, encoder=with_children(network.encoder, sam=sam))


def with_plain_means(network: MFNet) -> MFNet:
    """Put a mean in place of each pooling to 1 x 1."""

    def mean_from_pool(module: nn.Module) -> nn.Module | None:
        pools = isinstance(module, nn.AdaptiveAvgPool2d) and module.output_size in (1, (1, 1))
        return SpatialMean() if pools else None

    return replaced(network, mean_from_pool)


STEPS = (
    Step("merge-tuning", "fine-tuning folded into the weights", with_merged_tuning),
    Step("resize-position", "position embedding resized to the window", with_window_position),
    Step("plain-means", "pooling to 1 x 1 as a mean", with_plain_means),
)


def merged_from_network(network: MFNet, *, without: Collection[str] = ()) -> MFNet:
    """An equal network of fewer operations; of a merged one, itself.

    Args:
        network: Stays unchanged and usable; weights that no step changes are shared with it.
        without: Names of steps to leave out.

    Raises:
        UsageError: no step of that name.
    """
    return merged(network, without=without).network


def merged(network: MFNet, *, without: Collection[str] = ()) -> Merged:
    """As `merged_from_network`, and which steps changed something."""
    unknown = sorted(set(without) - {step.name for step in STEPS})
    if unknown:
        known = ", ".join(step.name for step in STEPS)
        raise UsageError(f"no rewrite named {', '.join(unknown)}; there are {known}")
    done = []
    for step in STEPS:
        if step.name in without:
            continue
        before, network = network, step.run(network)
        if network is not before:
            done.append(step.name)
    return Merged(network, tuple(done))


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
