"""A network rewritten into an equal one of fewer operations, by named exact steps.

Every step is algebra, not approximation (DESIGN 4): it takes a network and returns an equal one,
or the very same object where there is nothing to do. Modules and weights that a step leaves alone
are shared with the original, which stays as it was. Knows no ONNX and no files.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from itertools import pairwise

from mfnet.model.encoder import merge_tunings, resize_position
from mfnet.model.network import MFNet
from mfnet.tuning.base import wide
from mfnet_export.flops import gflop_from_network
from mfnet_export.rewrites.blocks import (
    with_scaled_queries,
    without_key_bias,
    without_zero_tables,
)
from mfnet_export.rewrites.encoder import FastEncoder, fast_from_encoder, without_padding
from mfnet_export.rewrites.norms import (
    with_folded_batch_norms,
    with_native_norms,
    with_plain_means,
)
from mfnet_export.rewrites.surgery import with_children, with_weights
from mfnet_runtime.errors import UsageError


@dataclass(frozen=True)
class Step:
    """One rewrite: its name on the command line, what it does, and the doing."""

    name: str
    says: str
    run: Callable[[MFNet], MFNet]


@dataclass(frozen=True)
class Work:
    """A step that changed something, and the work of a window before and after it."""

    name: str
    says: str
    before: float  # GFLOP a window
    after: float


@dataclass(frozen=True, eq=False)
class Merged:
    """A network, the steps that changed something, in order, and what each made of it."""

    original: MFNet
    done: tuple[tuple[Step, MFNet], ...]

    @property
    def network(self) -> MFNet:
        """What came out."""
        return self.done[-1][1] if self.done else self.original

    @property
    def steps(self) -> tuple[str, ...]:
        """Names of the steps that changed something."""
        return tuple(step.name for step, _ in self.done)

    def work(self) -> tuple[Work, ...]:
        """What each step saved."""
        gflop = [gflop_from_network(net) for net in (self.original, *(net for _, net in self.done))]
        return tuple(
            Work(step.name, step.says, before, after)
            for (step, _), (before, after) in zip(self.done, pairwise(gflop), strict=True)
        )


def with_merged_tuning(network: MFNet) -> MFNet:
    """Fold what fine-tuning added into the block's own products (DESIGN 4.1 to 4.3)."""
    encoder = network.encoder
    tuning = merge_tunings(encoder.sam, encoder.tuning)
    if all(after is before for after, before in zip(tuning, encoder.tuning, strict=True)):
        return network
    return with_children(network, encoder=with_children(encoder, tuning=tuning))


def with_window_position(network: MFNet) -> MFNet:
    """Resize the position embedding to the window's grid once, not at every call (DESIGN 4.6)."""
    position = network.encoder.sam.pos_embed.detach()
    resized = resize_position(position, network.config.grid)
    if resized.shape == position.shape:
        return network
    sam = with_weights(network.encoder.sam, pos_embed=resized.contiguous())
    return with_children(network, encoder=with_children(network.encoder, sam=sam))


def with_dsm_band(network: MFNet) -> MFNet:
    """Embed the DSM by the sum of the kernel's three bands, in place of the DSM three times."""
    encoder = network.encoder
    if isinstance(encoder, FastEncoder) and encoder.dsm_embed is not None:
        return network
    made = fast_from_encoder(encoder)
    proj = encoder.sam.patch_embed.proj
    one = with_weights(proj, weight=wide(proj.weight).sum(1, keepdim=True))
    one.in_channels = 1
    made.dsm_embed = with_children(encoder.sam.patch_embed, proj=one)
    return with_children(network, encoder=made)


def without_window_padding(network: MFNet) -> MFNet:
    """Let real tokens alone attend, and padding be a constant key."""
    encoder = network.encoder
    if isinstance(encoder, FastEncoder) and encoder.attention is not None:
        return network
    return with_children(network, encoder=without_padding(fast_from_encoder(encoder)))


STEPS = (
    Step("merge-tuning", "fine-tuning folded into the weights", with_merged_tuning),
    Step("resize-position", "position embedding resized to the window", with_window_position),
    Step("dsm-band", "DSM embedded as one band, not three", with_dsm_band),
    Step("zero-tables", "no relative position where its tables are zero", without_zero_tables),
    Step("query-scale", "1/sqrt(d) in the queries' weights", with_scaled_queries),
    Step("key-bias", "keys without bias, values' bias behind the projection", without_key_bias),
    Step("window-padding", "attention over real tokens only", without_window_padding),
    Step("batch-norm", "BatchNorm folded into convolutions", with_folded_batch_norms),
    Step("layer-norm", "LayerNorm2d as native LayerNorm", with_native_norms),
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
    done: list[tuple[Step, MFNet]] = []
    made = network
    for step in STEPS:
        before = made
        if step.name not in without:
            made = step.run(made)
        if made is not before:
            done.append((step, made))
    return Merged(network, tuple(done))
