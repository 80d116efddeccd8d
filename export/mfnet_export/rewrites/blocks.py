"""Rewrites of the attention weights of every block: tables, scale and biases."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from mfnet.model.network import MFNet
from mfnet.sam import Block
from mfnet.tuning.base import BlockTuning, wide
from mfnet_export.rewrites.encoder import FastEncoder
from mfnet_export.rewrites.surgery import shallow_copy, with_children, with_weights

Change = Callable[[Block, BlockTuning], tuple[Block, BlockTuning]]


def drop_zero_tables(network: MFNet) -> MFNet:
    """Drop the relative position of every block whose tables are both zero."""

    def change(block: Block, tuning: BlockTuning) -> tuple[Block, BlockTuning]:
        attn = block.attn
        if not attn.use_rel_pos or attn.rel_pos_h.any() or attn.rel_pos_w.any():
            return block, tuning
        attn = shallow_copy(attn)
        attn.use_rel_pos = False
        del attn._parameters["rel_pos_h"], attn._parameters["rel_pos_w"]
        return with_children(block, attn=attn), tuning

    return _change_blocks(network, change)


def scale_queries(network: MFNet) -> MFNet:
    """Move the scale 1 / sqrt(d) of attention into the weights of the queries.

    The relative-position tables, which are multiplied with the queries, are divided by it.
    """

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
        if scaled is tuning:  # the queries come from SAM's weights
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

    return _change_blocks(network, change)


def drop_key_bias(network: MFNet) -> MFNet:
    """Drop the bias of the keys and move the bias of the values behind the projection.

    The bias of the keys adds the same to all scores of a query, padding included, and cancels in
    the softmax. The softmax weights add up to one, so the bias of the values passes through
    unchanged. Padding keys and values are zero afterwards.
    """

    def change(block: Block, tuning: BlockTuning) -> tuple[Block, BlockTuning]:
        attn: Any = block.attn
        queries, keys, values = wide(attn.qkv.bias).chunk(3)
        if not (keys.any() or values.any()):
            return block, tuning
        if (
            tuning.with_qkv_gain(torch.ones_like(attn.qkv.bias)) is None
        ):  # it may hold a bias itself
            return block, tuning
        bias = torch.cat([queries, torch.zeros_like(keys), torch.zeros_like(values)])
        through: Tensor = wide(attn.proj.bias) + wide(attn.proj.weight) @ values
        attn = with_children(
            attn,
            qkv=with_weights(attn.qkv, bias=bias),
            proj=with_weights(attn.proj, bias=through),
        )
        return with_children(block, attn=attn), tuning

    return _change_blocks(network, change)


def _change_blocks(network: MFNet, change: Change) -> MFNet:
    """Return the network with each block and its tuning changed, or itself if none changes.

    Padding-free attention holds copies of scale, biases and tables, so nothing changes after it.
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
