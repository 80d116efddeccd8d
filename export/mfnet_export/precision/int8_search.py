"""Which layers stay float: found by measuring, until enough pixels keep their class.

Knows no graphs: layers are numbers with a kind and a cost, and what keeping some of them brings
is asked of a function.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from mfnet_export.precision.accuracy import Difference

MAX_GROUPS = 16  # each costs one graph of the whole network written, loaded and run
MAX_FLOAT = 0.5  # share of the multiplications; past it INT8 is not worth its name


@dataclass(frozen=True)
class Group:
    """Layers that stay float together: of one kind, from one stretch of the depth."""

    name: str  # in words
    layers: tuple[int, ...]  # indices into `quantise.layers_of`
    share: float  # of all layers' weights, so of their multiplications


@dataclass(frozen=True)
class Found:
    """The end of a search."""

    kept: tuple[Group, ...]  # in float, the most rewarding first; empty: all is INT8
    difference: Difference  # from FP32, with those in float
    measured: int  # graphs run on the way

    @property
    def layers(self) -> frozenset[int]:
        """Indices of the layers to keep."""
        return frozenset(index for group in self.kept for index in group.layers)


Measure = Callable[[Collection[int]], Difference]  # of the graph that keeps these layers in float


def groups_of(kinds: Sequence[str], sizes: Sequence[int]) -> list[Group]:
    """Layers of one kind in as many stretches as `MAX_GROUPS` allows.

    Args:
        kinds: Of each layer, in the graph's order.
        sizes: Of each layer's weight, elements.
    """
    members = {kind: [i for i, other in enumerate(kinds) if other == kind] for kind in kinds}
    parts = max(1, MAX_GROUPS // max(len(members), 1))
    groups = []
    for kind, layers in members.items():
        for part in range(min(parts, len(layers))):
            count = min(parts, len(layers))
            low, high = (len(layers) * bound // count for bound in (part, part + 1))
            chosen = tuple(layers[low:high])
            place = f"{low + 1}-{high}" if high > low + 1 else f"{high}"
            share = sum(sizes[index] for index in chosen) / sum(sizes)
            groups.append(Group(f"{kind} no. {place} of {len(layers)}", chosen, share))
    return groups


def layers_to_keep(
    groups: Sequence[Group],
    measure: Measure,
    target: float,
    tell: Callable[[str], None] = lambda _: None,
) -> Found:
    """The layers without which INT8 keeps the class of a share `target` of the pixels.

    With everything in INT8 one group at a time goes back to float. Those that take most of the
    logits' difference away for the multiplications they cost stay there, one after another, until
    the target is reached or more than `MAX_FLOAT` of the multiplications would be float.

    Args:
        groups: What may stay float.
        measure: Runs a graph.
        target: 0..1.
        tell: Told what is being done.
    """
    difference, measured = measure(()), 1
    if difference.agreement >= target:
        return Found((), difference, measured)
    tell(f"{difference.agreement:.2%} keep their class; measuring {len(groups)} groups of layers")
    gains = []
    for group in groups:
        gains.append((difference.mean_abs - measure(group.layers).mean_abs) / group.share)
        measured += 1
    order = sorted(range(len(groups)), key=lambda index: -gains[index])
    kept: list[Group] = []
    for group in (groups[index] for index in order if gains[index] > 0):
        if sum(other.share for other in (*kept, group)) > MAX_FLOAT:
            continue
        kept.append(group)
        difference = measure([index for other in kept for index in other.layers])
        measured += 1
        tell(f"{difference.agreement:.2%} with {group.name} in float")
        if difference.agreement >= target:
            break
    return Found(tuple(kept), difference, measured)
