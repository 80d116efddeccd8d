"""Deep Fusion Module: two encoder maps to four fused scales (MFNET.md 3)."""

from __future__ import annotations

from torch import Tensor, nn

REDUCTION = 16  # factor by which squeeze-and-excitation reduces channels


class ChannelNorm(nn.Module):
    """LayerNorm over the channels of a map; `ln` is its name in official files."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.ln = nn.LayerNorm(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to the same shape."""
        out: Tensor = self.ln(x.permute(0, 2, 3, 1))
        return out.permute(0, 3, 1, 2)


class SqueezeExcitation(nn.Module):
    """Scale each channel of a map by a weight in (0, 1) computed from the channel means."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = max(channels // REDUCTION, 1)
        self.fc = nn.Sequential(
            nn.Conv2d(channels, squeezed, 1),
            nn.ReLU(),
            nn.Conv2d(squeezed, channels, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to the same shape."""
        weight: Tensor = self.fc(x.mean((2, 3), keepdim=True))
        return x * weight


class SumFusion(nn.Module):
    """Sum both streams of one scale, each weighted by its own squeeze-and-excitation."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.se_rgb = SqueezeExcitation(channels)
        self.se_depth = SqueezeExcitation(channels)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Fuse two maps of shape (N, C, H, W) into one."""
        out: Tensor = self.se_rgb(x) + self.se_depth(y)
        return out


class DeepFusion(nn.Module):
    """Make four scales of each stream by (de)convolution and pooling, and fuse each scale."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fpn1x = _up4(channels, ChannelNorm(channels))
        self.fpn1y = _up4(channels, nn.BatchNorm2d(channels))
        self.fpn2x = nn.Sequential(_up2(channels))
        self.fpn2y = nn.Sequential(_up2(channels))
        self.fpn3 = nn.Identity()
        self.fpn4 = nn.MaxPool2d(2)
        self.fusion1 = SumFusion(channels)
        self.fusion2 = SumFusion(channels)
        self.fusion3 = SumFusion(channels)
        self.fusion4 = SumFusion(channels)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Fuse the encoder's maps.

        Args:
            x: Image stream, (N, C, G, G), G even.
            y: DSM stream, of the same shape.

        Returns:
            (N, C, S, S) for S = 4G, 2G, G, G/2: res1 to res4 of MFNET.md, section 4.
        """
        return (
            self.fusion1(self.fpn1x(x), self.fpn1y(y)),
            self.fusion2(self.fpn2x(x), self.fpn2y(y)),
            self.fusion3(self.fpn3(x), self.fpn3(y)),
            self.fusion4(self.fpn4(x), self.fpn4(y)),
        )


def _up2(channels: int) -> nn.Module:
    return nn.ConvTranspose2d(channels, channels, 2, stride=2)


def _up4(channels: int, norm: nn.Module) -> nn.Sequential:
    return nn.Sequential(_up2(channels), norm, nn.GELU(), _up2(channels))
