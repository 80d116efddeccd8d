"""Steps on the attention weights of every block: tables, scale and biases (DESIGN 4.5, 4.6)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from mfnet.model.network import MFNet
from mfnet.sam import Block
from mfnet.tuning.base import BlockTuning, wide
from mfnet_export.rewrites.encoder import FastEncoder
from mfnet_export.rewrites.surgery import shell, with_children, with_weights

Change = Callable[[Block, BlockTuning], tuple[Block, BlockTuning]]


def without_zero_tables(network: MFNet) -> MFNet:
    """Leave out relative position where both tables of a block are zero."""

    def change(block: Block, tuning: BlockTuning) -> tuple[Block, BlockTuning]:
        attn = block.attn
        if not attn.use_rel_pos or attn.rel_pos_h.any() or attn.rel_pos_w.any():
            return block, tuning
        attn = shell(attn)
        attn.use_rel_pos = False
        del attn._parameters["rel_pos_h"], attn._parameters["rel_pos_w"]
        return with_children(block, attn=attn), tuning

    return _with_blocks(network, change)


def with_scaled_queries(network: MFNet) -> MFNet:
    """Put attention's 1 / sqrt(d) into the queries' weights, and out of the tables they meet."""

    def change(block: Block, tuning: BlockTuning) -> tuple[Block, BlockTuning]:
        scale = block.attn.scale
        if scale == 1:
            return block, tuning
        gain = torch.ones_like(block.attn.qkv.bias)
        gain[: len(gain) // 3] = scale
        attn = block.attn
        scaled = tuning.with_qkv_gain(gain)
        if scaled is None:
            return block, tuning
        bias = wide(attn.qkv.bias) * wide(gain)
        if scaled is tuning:  # the queries are SAM's
            weight = wide(attn.qkv.weight) * wide(gain)[:, None]
            qkv = with_weights(attn.qkv, weight=weight, bias=bias)
        else:
            qkv = with_weights(attn.qkv, bias=bias)
        attn = with_children(attn, qkv=qkv)
        attn.scale = 1
        if attn.use_rel_pos:
            tables = {
                name: wide(getattr(attn, name)) / scale for name in ("rel_pos_h", "rel_pos_w")
            }
            attn = with_weights(attn, **tables)
        return with_children(block, attn=attn), scaled

    return _with_blocks(network, change)


def without_key_bias(network: MFNet) -> MFNet:
    """Drop the keys' bias and move the values' behind the projection.

    A query meets the same bias in every key, padding too, which softmax takes out; the weights of
    the values add up to one, so their bias passes through. Padding is then zero.
    """

    def change(block: Block, tuning: BlockTuning) -> tuple[Block, BlockTuning]:
        attn: Any = block.attn
        queries, keys, values = wide(attn.qkv.bias).chunk(3)
        if not (keys.any() or values.any()):
            return block, tuning
        if tuning.with_qkv_gain(torch.ones_like(attn.qkv.bias)) is None:  # may hold a bias itself
            return block, tuning
        bias = torch.cat([queries, torch.zeros_like(keys), torch.zeros_like(values)])
        through: Tensor = wide(attn.proj.bias) + wide(attn.proj.weight) @ values
        attn = with_children(
            attn,
            qkv=with_weights(attn.qkv, bias=bias),
            proj=with_weights(attn.proj, bias=through),
        )
        return with_children(block, attn=attn), tuning

    return _with_blocks(network, change)


def _with_blocks(network: MFNet, change: Change) -> MFNet:
    """The network with each block and its tuning changed, or itself if none was.

    Attention without padding holds scale, biases and tables of its own: then it is too late.
    """
    encoder = network.encoder
    if isinstance(encoder, FastEncoder) and encoder.attention is not None:
        return network
    before = [
        (block, cast(BlockTuning, tuning))
        for block, tuning in zip(encoder.sam.blocks, encoder.tuning, strict=True)
    ]
    after = [change(*pair) for pair in before]
    if all(
        new is old
        for pair, other in zip(after, before, strict=True)
        for new, old in zip(pair, other, strict=True)
    ):
        return network
    blocks, tunings = zip(*after, strict=True)
    sam = with_children(encoder.sam, blocks=nn.ModuleList(blocks))
    made = with_children(encoder, sam=sam, tuning=nn.ModuleList(tunings))
    return with_children(network, encoder=made)
