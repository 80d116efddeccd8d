"""UNetFormer-type decoder: four fused scales to class logits (MFNET.md 4).

Names are those of the official implementation, so that its files load key by key.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mfnet.model.decoder_attention import DecoderBlock, conv, conv_norm, separable

WIDTH = 64  # channels throughout
SQUEEZE = 16  # reduction inside the channel attention


class WeightedFusion(nn.Module):
    """Average x, upsampled to twice its size, with the finer scale by learned positive weights."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pre_conv = nn.Sequential(conv(channels, WIDTH, 1))
        self.weights = nn.Parameter(torch.ones(2))
        self.post_conv = nn.Sequential(*conv_norm(WIDTH, WIDTH, 3), nn.ReLU6())

    def forward(self, x: Tensor, res: Tensor) -> Tensor:
        """Fuse (N, 64, S, S) and (N, C, 2S, 2S) into (N, 64, 2S, 2S)."""
        x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        weights = F.relu(self.weights)
        weights = weights / (weights.sum() + 1e-8)
        out: Tensor = self.post_conv(weights[0] * self.pre_conv(res) + weights[1] * x)
        return out


class RefinedFusion(WeightedFusion):
    """WeightedFusion refined by position attention and channel attention."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        squeezed = WIDTH // SQUEEZE
        depthwise = nn.Conv2d(WIDTH, WIDTH, 3, padding=1, groups=WIDTH)
        self.pa = nn.Sequential(depthwise, nn.Sigmoid())
        self.ca = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Sequential(conv(WIDTH, squeezed, 1)),
            nn.ReLU6(),
            nn.Sequential(conv(squeezed, WIDTH, 1)),
            nn.Sigmoid(),
        )
        self.shortcut = conv_norm(WIDTH, WIDTH, 1)
        self.proj = separable(WIDTH, 3)

    def forward(self, x: Tensor, res: Tensor) -> Tensor:
        """Fuse (N, 64, S, S) and (N, C, 2S, 2S) into (N, 64, 2S, 2S)."""
        x = super().forward(x, res)
        refined = x * self.pa(x) + x * self.ca(x)
        return F.relu6(self.proj(refined) + self.shortcut(x))


class Decoder(nn.Module):
    """Attention blocks from coarse to fine, then the segmentation head."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.pre_conv = conv_norm(channels, WIDTH, 1)
        self.b4 = DecoderBlock(WIDTH)
        self.b3 = DecoderBlock(WIDTH)
        self.p3 = WeightedFusion(channels)
        self.b2 = DecoderBlock(WIDTH)
        self.p2 = WeightedFusion(channels)
        self.p1 = RefinedFusion(channels)
        self.segmentation_head = nn.Sequential(
            nn.Sequential(*conv_norm(WIDTH, WIDTH, 3), nn.ReLU6()),
            nn.Dropout2d(0.1),
            nn.Sequential(conv(WIDTH, classes, 1)),
        )

    def forward(self, scales: Sequence[Tensor], size: int) -> Tensor:
        """Decode four scales.

        Args:
            scales: res1 to res4, (N, C, S, S), each half the size of the one before.
            size: Rows and columns of the logits.

        Returns:
            Logits (N, classes, size, size).
        """
        res1, res2, res3, res4 = scales
        x = self.b4(self.pre_conv(res4))
        x = self.b3(self.p3(x, res3))
        x = self.b2(self.p2(x, res2))
        x = self.p1(x, res1)
        x = self.segmentation_head(x)
        return F.interpolate(x, size=(size, size), mode="bilinear", align_corners=False)
