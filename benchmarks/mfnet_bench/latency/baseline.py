"""PyTorch as the baseline, above all in the published order of operations.

`mfnet.MFNet` leaves window padding out of qkv, projection and adapters. The published code does
not (MFNET.md 2): it pads the normalised tokens with zeros to whole windows, runs qkv, attention,
projection and whatever follows on all of them (784 tokens instead of 256 at 256 px), and crops
afterwards; each stream by itself, nothing merged. Fusion and decoder are those of `mfnet`, which
keep the published order. Where the choice is of an operator rather than an order, the faster one
is taken: the published LoRA changes q and v through a boolean mask, this one concatenates.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from mfnet.checkpoints.checkpoint import load_checkpoint, network_from_checkpoint
from mfnet.config import PATCH
from mfnet.model.encoder import resize_position
from mfnet.model.network import MFNet
from mfnet.model.torch_backend import TorchBackend
from mfnet.sam import Block, add_decomposed_rel_pos, window_partition, window_unpartition
from mfnet.tuning.base import BlockTuning, Streams
from mfnet_bench.latency.request import AUTOCAST, COMPILED, OURS
from mfnet_runtime.backends.base import Feed


class PublishedMFNet(nn.Module):
    """The function of a network, with its weights, in the published order of operations.

    Args:
        network: An unmerged one, since merging changes the operations.
    """

    def __init__(self, network: MFNet) -> None:
        super().__init__()
        self.network = network
        self.config = network.config

    def forward(self, image: Tensor, dsm: Tensor) -> Tensor:
        """Return the class logits of a batch of windows.

        Args:
            image: (N, 3, S, S) in [0, 1], S a multiple of 32.
            dsm: (N, 1, S, S) in [0, 1], scaled over its scene.

        Returns:
            Logits (N, classes, S, S).
        """
        encoder = self.network.encoder
        sam = encoder.sam
        position = resize_position(sam.pos_embed, image.shape[-1] // PATCH)
        x = sam.patch_embed(image) + position
        y = sam.patch_embed(dsm.repeat(1, 3, 1, 1)) + position
        for block, tuning in zip(sam.blocks, encoder.tuning, strict=True):
            x, y = published_block(block, cast(BlockTuning, tuning), x, y)
        fused = self.network.fusion(
            sam.neck(x.permute(0, 3, 1, 2)), sam.neck(y.permute(0, 3, 1, 2))
        )
        logits: Tensor = self.network.decoder(fused, image.shape[-1])
        return logits


def published_block(block: Block, tuning: BlockTuning, x: Tensor, y: Tensor) -> Streams:
    """Run one transformer block over both streams, tokens (N, G, G, D)."""
    skip_x, skip_y = x, y
    x, y = block.norm1(x), block.norm1(y)
    side, grid = block.window_size, (x.shape[1], x.shape[2])
    if side:
        x, padded = window_partition(x, side)
        y, _ = window_partition(y, side)
    x, y = tuning.qkv(block, x, y)
    x, y = _attention(block, x), _attention(block, y)
    x, y = tuning.attended(block.attn.proj(x), block.attn.proj(y))
    if side:
        x = window_unpartition(x, side, padded, grid)
        y = window_unpartition(y, side, padded, grid)
    x, y = skip_x + x, skip_y + y
    mlp_x, mlp_y = tuning.mlp(block, block.norm2(x), block.norm2(y))
    return x + mlp_x, y + mlp_y


def _attention(block: Block, qkv: Tensor) -> Tensor:
    """Attend over all tokens of each window, padding too: (M, S, S, 3D) to (M, S, S, D)."""
    attention = block.attn
    count, height, width, _ = qkv.shape
    parts = qkv.reshape(count, height * width, 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4)
    q, k, v = parts.reshape(3, count * attention.num_heads, height * width, -1).unbind(0)
    scores = (q * attention.scale) @ k.transpose(-2, -1)
    sizes = (height, width)
    scores = add_decomposed_rel_pos(
        scores, q, attention.rel_pos_h, attention.rel_pos_w, sizes, sizes
    )
    out = (scores.softmax(dim=-1) @ v).view(count, attention.num_heads, height, width, -1)
    joined: Tensor = out.permute(0, 2, 3, 1, 4).reshape(count, height, width, -1)
    return joined


class _HalfPrecision(nn.Module):
    """FP16 on a GPU: by autocast, or by `torch.compile` of a network with FP16 weights."""

    def __init__(self, network: nn.Module, compiled: bool) -> None:
        super().__init__()
        self._compiled = compiled
        self._network: Any = torch.compile(network.half(), dynamic=False) if compiled else network

    def forward(self, image: Tensor, dsm: Tensor) -> Tensor:
        if self._compiled:
            logits: Tensor = self._network(image.half(), dsm.half())
            return logits
        with torch.autocast("cuda", torch.float16):
            logits = self._network(image, dsm)
        return logits


class CudaBaseline(TorchBackend):
    """A baseline on a GPU."""

    def device_ms(self, feed: Feed, calls: int) -> list[float]:
        """Return the milliseconds of each of several calls, with the data on the GPU."""
        image, dsm = (torch.from_numpy(feed[name]).to(self._place) for name in ("image", "dsm"))
        with torch.inference_mode():
            return cuda_ms(lambda: self._network(image, dsm), calls)


def open_baseline(path: Path, kind: str, device: str) -> TorchBackend:
    """Load a checkpoint's network as a baseline: FP32, or FP16 where `kind` says so on a GPU.

    Args:
        path: The checkpoint.
        kind: One of the kinds in `networks`.
        device: cpu or cuda.

    Raises:
        ModelError: The checkpoint is damaged.
    """
    checkpoint = load_checkpoint(path)
    torch.backends.cudnn.allow_tf32 = False  # FP32 is the reference
    network: Any = network_from_checkpoint(checkpoint)
    network = network if kind == OURS else PublishedMFNet(network)
    network = network.eval().to(device)
    if device == "cpu":
        network = torch.compile(network) if kind == COMPILED else network
        return TorchBackend(network, checkpoint.contract)
    half = kind in (AUTOCAST, COMPILED)
    network = _HalfPrecision(network, kind == COMPILED) if half else network
    backend = CudaBaseline(network, checkpoint.contract)
    backend.precision = "fp16" if half else "fp32"
    return backend


def cuda_ms(call: Callable[[], Any], calls: int) -> list[float]:
    """Return the milliseconds of each of several calls, queued one after the other on the GPU."""
    events: list[Any] = [torch.cuda.Event(enable_timing=True) for _ in range(calls + 1)]  # type: ignore[no-untyped-call]
    events[0].record()
    for event in events[1:]:
        call()
        event.record()
    torch.cuda.synchronize()
    return [start.elapsed_time(end) for start, end in pairwise(events)]
