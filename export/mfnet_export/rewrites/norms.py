"""Steps on normalisation and pooling, wherever they stand (DESIGN 4.6)."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from mfnet.model.decoder_attention import DecoderBlock
from mfnet.model.fusion import ChannelNorm
from mfnet.model.network import MFNet
from mfnet.sam import LayerNorm2d
from mfnet.tuning.base import wide
from mfnet_export.rewrites.surgery import replaced, with_children, with_weights


class SpatialMean(nn.Module):
    """Mean over rows and columns: pooling to 1 x 1, which torch exports as an index computation."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, 1, 1)."""
        return x.mean((2, 3), keepdim=True)


def with_plain_means(network: MFNet) -> MFNet:
    """Put a mean in place of each pooling to 1 x 1."""

    def mean_from_pool(module: nn.Module) -> nn.Module | None:
        pools = isinstance(module, nn.AdaptiveAvgPool2d) and module.output_size in (1, (1, 1))
        return SpatialMean() if pools else None

    return replaced(network, mean_from_pool)


def with_native_norms(network: MFNet) -> MFNet:
    """Put LayerNorm over the last axis in place of SAM's LayerNorm2d, written out over channels."""

    def native(module: nn.Module) -> nn.Module | None:
        if not isinstance(module, LayerNorm2d):
            return None
        norm = ChannelNorm(len(module.weight))
        norm.ln.weight, norm.ln.bias, norm.ln.eps = module.weight, module.bias, module.eps
        return norm.eval()

    return replaced(network, native)


def with_folded_batch_norms(network: MFNet) -> MFNet:
    """Fold each BatchNorm into the convolution before it, or the 1x1 convolution behind it.

    The one before the decoder's attention stays: behind it stands a 3x3 convolution whose zero
    padding is not the norm's.
    """

    def folded(module: nn.Module) -> nn.Module | None:
        if isinstance(module, nn.Sequential):
            return _folded_sequence(module)
        if isinstance(module, DecoderBlock) and isinstance(module.norm2, nn.BatchNorm2d):
            gain, shift = _affine(module.norm2)
            first = module.mlp.fc1
            assert first.bias is not None
            weight = wide(first.weight)
            mlp = with_children(
                module.mlp,
                fc1=with_weights(
                    first,
                    weight=weight * gain[:, None, None],
                    bias=wide(first.bias) + weight[:, :, 0, 0] @ shift,
                ),
            )
            made = with_children(module, norm2=nn.Identity(), mlp=mlp)
            return replaced(made, folded)
        return None

    return replaced(network, folded)


def _folded_sequence(module: nn.Sequential) -> nn.Sequential | None:
    """The sequence with each BatchNorm that follows a convolution folded into it."""
    items = dict(module._modules)
    changed: dict[str, nn.Module] = {}
    for (name, layer), (following, norm) in pairwise(items.items()):
        if isinstance(layer, nn.Sequential) and len(layer) == 1:  # as in official files
            layer = layer[0]
        if isinstance(norm, nn.BatchNorm2d) and isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            changed |= {name: _folded(layer, norm), following: nn.Identity()}
    return with_children(module, **changed) if changed else None


def _folded(layer: nn.Conv2d | nn.ConvTranspose2d, norm: nn.BatchNorm2d) -> nn.Module:
    gain, shift = _affine(norm)
    bias = shift if layer.bias is None else shift + gain * wide(layer.bias)
    # outputs are the first axis of a convolution's weight, the second of a transposed one's
    axis = 1 if isinstance(layer, nn.ConvTranspose2d) else 0
    shape = [1] * layer.weight.ndim
    shape[axis] = -1
    return with_weights(layer, weight=wide(layer.weight) * gain.reshape(shape), bias=bias)


def _affine(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Gain and shift of a BatchNorm in eval mode, float64."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    gain = wide(norm.weight) / torch.sqrt(wide(norm.running_var) + norm.eps)
    return gain, wide(norm.bias) - gain * wide(norm.running_mean)
