"""The list of exact rewrites that make a network fast, and `merge`, which applies them.

Every rewrite is algebra, not approximation: it takes a network and returns an equal one with
fewer operations, or the same object if there is nothing to do. Modules and weights that a rewrite
does not change are shared with the original network, which is never changed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from itertools import pairwise

from mfnet.model.encoder import merge_tunings, resize_position
from mfnet.model.network import MFNet
from mfnet.tuning.base import wide
from mfnet_export.flops import gflop_from_network
from mfnet_export.rewrites.blocks import drop_key_bias, drop_zero_tables, scale_queries
from mfnet_export.rewrites.encoder import FastEncoder, fast_from_encoder, remove_padding
from mfnet_export.rewrites.norms import fold_batch_norms, use_native_norms, use_plain_means
from mfnet_export.rewrites.surgery import with_children, with_weights
from mfnet_runtime.errors import UsageError


@dataclass(frozen=True)
class Step:
    """One rewrite."""

    name: str  # for --no-rewrite
    description: str
    apply: Callable[[MFNet], MFNet]


@dataclass(frozen=True)
class StepCost:
    """The work per window before and after a rewrite."""

    name: str
    description: str
    before: float  # GFLOP
    after: float


@dataclass(frozen=True, eq=False)
class MergedNetwork:
    """A rewritten network and the rewrites that changed it."""

    original: MFNet
    applied: tuple[tuple[Step, MFNet], ...]  # in order, each with its result

    @property
    def network(self) -> MFNet:
        """The rewritten network."""
        return self.applied[-1][1] if self.applied else self.original

    @property
    def steps(self) -> tuple[str, ...]:
        """Names of the rewrites that changed something."""
        return tuple(step.name for step, _ in self.applied)

    def costs(self) -> tuple[StepCost, ...]:
        """Count the operations before and after each rewrite."""
        networks = (self.original, *(network for _, network in self.applied))
        gflop = [gflop_from_network(network) for network in networks]
        return tuple(
            StepCost(step.name, step.description, before, after)
            for (step, _), (before, after) in zip(self.applied, pairwise(gflop), strict=True)
        )


def merge_tuning(network: MFNet) -> MFNet:
    """Fold the fine-tuning of every block into the weights of the block."""
    encoder = network.encoder
    tuning = merge_tunings(encoder.sam, encoder.tuning)
    if all(after is before for after, before in zip(tuning, encoder.tuning, strict=True)):
        return network
    return with_children(network, encoder=with_children(encoder, tuning=tuning))


def resize_position_embedding(network: MFNet) -> MFNet:
    """Resize the position embedding to the grid of the window once, not at every call."""
    position = network.encoder.sam.pos_embed.detach()
    resized = resize_position(position, network.config.grid)
    if resized.shape == position.shape:
        return network
    sam = with_weights(network.encoder.sam, pos_embed=resized.contiguous())
    return with_children(network, encoder=with_children(network.encoder, sam=sam))


def embed_single_dsm_band(network: MFNet) -> MFNet:
    """Embed the DSM with the sum of the kernel's three bands instead of repeating the DSM."""
    encoder = network.encoder
    if isinstance(encoder, FastEncoder) and encoder.dsm_embed is not None:
        return network
    made = fast_from_encoder(encoder)
    proj = encoder.sam.patch_embed.proj
    one = with_weights(proj, weight=wide(proj.weight).sum(1, keepdim=True))
    one.in_channels = 1
    made.dsm_embed = with_children(encoder.sam.patch_embed, proj=one)
    return with_children(network, encoder=made)


def remove_window_padding(network: MFNet) -> MFNet:
    """Compute attention for real tokens only, with the padding as constant keys."""
    encoder = network.encoder
    if isinstance(encoder, FastEncoder) and encoder.attention is not None:
        return network
    return with_children(network, encoder=remove_padding(fast_from_encoder(encoder)))


STEPS = (
    Step("merge-tuning", "fine-tuning folded into the weights", merge_tuning),
    Step("resize-position", "position embedding resized to the window", resize_position_embedding),
    Step("dsm-band", "DSM embedded as one band instead of three", embed_single_dsm_band),
    Step("zero-tables", "relative position dropped where its tables are zero", drop_zero_tables),
    Step("query-scale", "1/sqrt(d) folded into the query weights", scale_queries),
    Step("key-bias", "key bias dropped, value bias moved behind the projection", drop_key_bias),
    Step("window-padding", "attention over real tokens only", remove_window_padding),
    Step("batch-norm", "BatchNorm folded into convolutions", fold_batch_norms),
    Step("layer-norm", "LayerNorm2d as native LayerNorm", use_native_norms),
    Step("plain-means", "pooling to 1 x 1 as a mean", use_plain_means),
)


def merge(network: MFNet, *, without: Collection[str] = ()) -> MergedNetwork:
    """Apply all rewrites to a network.

    Args:
        network: Never changed; shares the weights that no rewrite changes with the result.
        without: Names of rewrites to leave out.

    Raises:
        UsageError: There is no rewrite of that name.
    """
    unknown = sorted(set(without) - {step.name for step in STEPS})
    if unknown:
        known = ", ".join(step.name for step in STEPS)
        raise UsageError(f"no rewrite named {', '.join(unknown)}; choose from {known}")
    applied: list[tuple[Step, MFNet]] = []
    result = network
    for step in STEPS:
        before = result
        if step.name not in without:
            result = step.apply(result)
        if result is not before:
            applied.append((step, result))
    return MergedNetwork(network, tuple(applied))
