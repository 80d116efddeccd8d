"""Sensitivity search: which linear layers must stay in float for enough pixels to keep their class.

Layers are numbers with a kind and a cost; a function measures a graph that keeps some in float.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from mfnet_export.precision.accuracy import Difference

logger = logging.getLogger(__name__)

MAX_GROUPS = 16  # each costs one whole graph that is written, loaded and run
MAX_FLOAT = 0.5  # share of the multiplications; beyond it INT8 gains too little


@dataclass(frozen=True)
class Group:
    """Layers of one kind and one range of depth, which stay in float together."""

    name: str
    layers: tuple[int, ...]  # indices into `qdq.linear_layers`
    share: float  # of the weights of all layers, and so of their multiplications


@dataclass(frozen=True)
class SearchResult:
    """The groups that stay in float, and the difference that remains."""

    kept: tuple[Group, ...]  # the most rewarding first; empty if all layers are INT8
    difference: Difference

    @property
    def layers(self) -> frozenset[int]:
        """Indices of the layers that stay in float."""
        return frozenset(index for group in self.kept for index in group.layers)


Measure = Callable[[Collection[int]], Difference]  # of the graph with these layers in float


def group_layers(kinds: Sequence[str], sizes: Sequence[int]) -> list[Group]:
    """Group layers of one kind by depth, into at most `MAX_GROUPS` groups.

    Args:
        kinds: Kind of each layer, in the order of the graph.
        sizes: Number of elements in the weight of each layer.
    """
    members = {kind: [i for i, other in enumerate(kinds) if other == kind] for kind in kinds}
    parts = max(1, MAX_GROUPS // max(len(members), 1))
    groups = []
    for kind, layers in members.items():
        count = min(parts, len(layers))
        for part in range(count):
            low, high = (len(layers) * bound // count for bound in (part, part + 1))
            chosen = tuple(layers[low:high])
            place = f"{low + 1}-{high}" if high > low + 1 else f"{high}"
            share = sum(sizes[index] for index in chosen) / sum(sizes)
            groups.append(Group(f"{kind} no. {place} of {len(layers)}", chosen, share))
    return groups


def search_float_layers(groups: Sequence[Group], measure: Measure, target: float) -> SearchResult:
    """Find the groups of layers that must stay in float.

    Each group is measured in float with all others in INT8. The groups that reduce the difference
    of the logits most for the multiplications they cost are kept in float, one after another,
    until the target is reached or `MAX_FLOAT` of the multiplications would be exceeded.

    Args:
        groups: The groups that may stay in float.
        measure: Runs the graph that keeps some layers in float.
        target: Share of pixels (0 to 1) that must keep their class.
    """
    difference = measure(())
    if difference.agreement >= target:
        return SearchResult((), difference)
    share = difference.agreement
    logger.info("%.2f%% keep their class; measuring %d groups of layers", 100 * share, len(groups))
    gains = [
        (difference.mean_abs - measure(group.layers).mean_abs) / group.share for group in groups
    ]
    order = sorted(range(len(groups)), key=lambda index: -gains[index])
    kept: list[Group] = []
    for group in (groups[index] for index in order if gains[index] > 0):
        if sum(other.share for other in (*kept, group)) > MAX_FLOAT:
            continue
        kept.append(group)
        difference = measure([index for other in kept for index in other.layers])
        logger.info("%.2f%% with %s in float", 100 * difference.agreement, group.name)
        if difference.agreement >= target:
            break
    return SearchResult(tuple(kept), difference)
