"""Rewrites of normalisation and pooling layers, wherever they are in the network."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from mfnet.model.decoder_attention import DecoderBlock
from mfnet.model.fusion import ChannelNorm
from mfnet.model.network import MFNet
from mfnet.sam import LayerNorm2d
from mfnet.tuning.base import wide
from mfnet_export.rewrites.surgery import replace_modules, with_children, with_weights


class SpatialMean(nn.Module):
    """Mean over rows and columns."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, 1, 1)."""
        return x.mean((2, 3), keepdim=True)


def use_plain_means(network: MFNet) -> MFNet:
    """Replace each pooling to 1 x 1, which torch exports as index arithmetic, with a mean."""

    def replace(module: nn.Module) -> nn.Module | None:
        pools = isinstance(module, nn.AdaptiveAvgPool2d) and module.output_size in (1, (1, 1))
        return SpatialMean() if pools else None

    return replace_modules(network, replace)


def use_native_norms(network: MFNet) -> MFNet:
    """Replace SAM's hand-written LayerNorm2d with a LayerNorm over the last axis."""

    def replace(module: nn.Module) -> nn.Module | None:
        if not isinstance(module, LayerNorm2d):
            return None
        norm = ChannelNorm(len(module.weight))
        norm.ln.weight, norm.ln.bias, norm.ln.eps = module.weight, module.bias, module.eps
        return norm.eval()

    return replace_modules(network, replace)


def fold_batch_norms(network: MFNet) -> MFNet:
    """Fold each BatchNorm into the convolution before it, or the 1x1 convolution after it.

    The BatchNorm before the decoder's attention stays: a 3x3 convolution follows it, and the zero
    padding of that convolution comes after the norm.
    """

    def replace(module: nn.Module) -> nn.Module | None:
        if isinstance(module, nn.Sequential):
            return _fold_in_sequence(module)
        if isinstance(module, DecoderBlock) and isinstance(module.norm2, nn.BatchNorm2d):
            gain, shift = _gain_and_shift(module.norm2)
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
            return replace_modules(made, replace)
        return None

    return replace_modules(network, replace)


def _fold_in_sequence(module: nn.Sequential) -> nn.Sequential | None:
    """Fold each BatchNorm that follows a convolution in a sequence; None if there is none."""
    items = dict(module._modules)
    changed: dict[str, nn.Module] = {}
    for (name, layer), (following, norm) in pairwise(items.items()):
        if isinstance(layer, nn.Sequential) and len(layer) == 1:  # as in official files
            layer = layer[0]
        if isinstance(norm, nn.BatchNorm2d) and isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            changed |= {name: _fold(layer, norm), following: nn.Identity()}
    return with_children(module, **changed) if changed else None


def _fold(layer: nn.Conv2d | nn.ConvTranspose2d, norm: nn.BatchNorm2d) -> nn.Module:
    gain, shift = _gain_and_shift(norm)
    bias = shift if layer.bias is None else shift + gain * wide(layer.bias)
    # The output channels are the first axis of a convolution's weight, the second of a
    # transposed convolution's.
    axis = 1 if isinstance(layer, nn.ConvTranspose2d) else 0
    shape = [1] * layer.weight.ndim
    shape[axis] = -1
    return with_weights(layer, weight=wide(layer.weight) * gain.reshape(shape), bias=bias)


def _gain_and_shift(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Return the gain and the shift of a BatchNorm in eval mode, in float64."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    gain = wide(norm.weight) / torch.sqrt(wide(norm.running_var) + norm.eps)
    return gain, wide(norm.bias) - gain * wide(norm.running_mean)
