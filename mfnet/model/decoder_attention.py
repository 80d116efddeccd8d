"""The decoder's global-local attention block (MFNET.md 4)."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

HEADS = 8
WINDOW = 8  # positions per side of an attention window


class GlobalLocalAttention(nn.Module):
    """Attention in 8x8 windows pooled along rows and columns, plus two local convolutions."""

    relative_position_index: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = (width // HEADS) ** -0.5
        self.qkv = nn.Sequential(nn.Conv2d(width, 3 * width, 1, bias=False))
        self.local1 = conv_norm(width, width, 3)
        self.local2 = conv_norm(width, width, 1)
        self.proj = separable(width, WINDOW)
        self.attn_x = nn.AvgPool2d((WINDOW, 1), stride=1, padding=(WINDOW // 2 - 1, 0))
        self.attn_y = nn.AvgPool2d((1, WINDOW), stride=1, padding=(0, WINDOW // 2 - 1))
        table = torch.empty((2 * WINDOW - 1) ** 2, HEADS)
        self.relative_position_bias_table = nn.Parameter(nn.init.trunc_normal_(table, std=0.02))
        # A constant, so it is not saved; official files hold it, and it is compared on loading.
        self.register_buffer("relative_position_index", relative_position_index(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to the same shape, for any H and W."""
        height, width = x.shape[2:]
        local = self.local2(x) + self.local1(x)
        tiled = reflect_pad(x, -height % WINDOW, -width % WINDOW)
        attended = self._windowed(tiled)[:, :, :height, :width]
        out = self.attn_x(reflect_pad(attended, 1, 0)) + self.attn_y(reflect_pad(attended, 0, 1))
        out = self.proj(reflect_pad(out + local, 1, 1))
        cropped: Tensor = out[:, :, :height, :width]
        return cropped

    def _windowed(self, x: Tensor) -> Tensor:
        """Attend inside windows; H and W are multiples of WINDOW."""
        channels, rows, columns = x.shape[1], x.shape[2] // WINDOW, x.shape[3] // WINDOW
        area, head_dim = WINDOW * WINDOW, channels // HEADS
        # (N, 3, heads, d, hi, i, wj, j) -> (3, N·hi·wj, heads, i·j, d)
        qkv = self.qkv(x).reshape(-1, 3, HEADS, head_dim, rows, WINDOW, columns, WINDOW)
        qkv = qkv.permute(1, 0, 4, 6, 2, 5, 7, 3).reshape(3, -1, HEADS, area, head_dim)
        q, k, v = qkv[0], qkv[1], qkv[2]
        bias = self.relative_position_bias_table[self.relative_position_index.flatten()]
        scores = (q @ k.transpose(-2, -1)) * self.scale
        scores = scores + bias.reshape(area, area, HEADS).permute(2, 0, 1)
        out = (scores.softmax(dim=-1) @ v).reshape(
            -1, rows, columns, HEADS, WINDOW, WINDOW, head_dim
        )
        out = out.permute(0, 3, 6, 1, 4, 2, 5)
        joined: Tensor = out.reshape(-1, channels, rows * WINDOW, columns * WINDOW)
        return joined


class Mlp(nn.Module):
    """Two 1x1 convolutions around ReLU6, four times wider inside."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(width, 4 * width, 1)
        self.fc2 = nn.Conv2d(4 * width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to the same shape."""
        out: Tensor = self.fc2(F.relu6(self.fc1(x)))
        return out


class DecoderBlock(nn.Module):
    """x + attn(norm1(x)), then x + mlp(norm2(x)); the norms are BatchNorms."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(width)
        self.attn = GlobalLocalAttention(width)
        self.norm2 = nn.BatchNorm2d(width)
        self.mlp = Mlp(width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to the same shape."""
        x = x + self.attn(self.norm1(x))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


def conv(inputs: int, outputs: int, kernel: int) -> nn.Conv2d:
    """Return a convolution that keeps the size and has no bias."""
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)


def conv_norm(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    """Return `conv` and BatchNorm."""
    return nn.Sequential(conv(inputs, outputs, kernel), nn.BatchNorm2d(outputs))


def separable(width: int, kernel: int) -> nn.Sequential:
    """Return a depthwise convolution, BatchNorm and a 1x1; an even kernel shrinks the map by 1."""
    depthwise = nn.Conv2d(width, width, kernel, padding=(kernel - 1) // 2, groups=width, bias=False)
    return nn.Sequential(depthwise, nn.BatchNorm2d(width), conv(width, width, 1))


def reflect_pad(x: Tensor, below: int, right: int) -> Tensor:
    """Reflect (N, C, H, W) by some rows below and columns on the right.

    Equals F.pad(mode="reflect") where that is defined, for a pad smaller than the size. Larger pads
    are reflected repeatedly, as numpy does.
    """
    if below < x.shape[2] and right < x.shape[3]:
        return F.pad(x, (0, right, 0, below), mode="reflect") if below or right else x
    for axis, amount in ((2, below), (3, right)):
        if amount:
            order = np.pad(np.arange(x.shape[axis]), (0, amount), mode="reflect")
            x = x.index_select(axis, torch.tensor(order.tolist(), device=x.device))
    return x


def relative_position_index() -> Tensor:
    """Return the row of the bias table for each pair of positions in a window, (64, 64)."""
    steps = torch.arange(WINDOW)
    row, column = steps.repeat_interleave(WINDOW), steps.repeat(WINDOW)
    down = row[:, None] - row[None, :] + WINDOW - 1
    across = column[:, None] - column[None, :] + WINDOW - 1
    return down * (2 * WINDOW - 1) + across
