"""The baseline computes what MFNet computes, in the published order of operations."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from networks import random_network, random_windows, reference_state, reference_windows, references
from torch import nn

from mfnet.checkpoints.checkpoint import checkpoint_from_official, network_from_checkpoint
from mfnet.model.network import MFNet
from mfnet.tuning import tuning_names
from mfnet_bench.latency.baseline import PublishedMFNet


@pytest.mark.parametrize("tuning", tuning_names())
def test_equals_mfnet(tuning: str) -> None:
    network = random_network(tuning, window=256).double()
    image, dsm = random_windows(1, 256, torch.float64)
    with torch.inference_mode():
        expected = network(image, dsm)
        found = PublishedMFNet(network).eval()(image, dsm)
    assert (found - expected).abs().max() <= 1e-10 * (expected.max() - expected.min())


@references
def test_equals_the_official_network(name: str) -> None:
    window = 512 if "512px" in name else 256
    checkpoint = checkpoint_from_official(reference_state(name), window=window)
    network = network_from_checkpoint(checkpoint).double()
    image, dsm, expected = reference_windows(name, torch.float64)
    with torch.inference_mode():
        found = PublishedMFNet(network)(image, dsm)
    assert (found - expected).abs().max() <= 5e-6


def rows_seen(network: MFNet, run: nn.Module) -> tuple[int, int]:
    """Tokens the first block's qkv and the residual-free projection are run on, image stream."""
    block = network.encoder.sam.blocks[0]
    seen: list[int] = []

    def count(_: nn.Module, inputs: tuple[torch.Tensor], __: Any) -> None:
        seen.append(inputs[0].numel() // inputs[0].shape[-1])

    hooks = [layer.register_forward_hook(count) for layer in (block.attn.qkv, block.attn.proj)]
    with torch.inference_mode():
        run(*random_windows(1, 256, torch.float32))
    for hook in hooks:
        hook.remove()
    return seen[0], seen[-1]


def test_padding_is_computed_as_published() -> None:
    """At 256 px, 16 tokens a side are padded to 28: 784 tokens in place of 256."""
    network = random_network("none", window=256)
    assert rows_seen(network, network) == (256, 256)
    assert rows_seen(network, PublishedMFNet(network)) == (784, 784)


def test_weights_are_shared() -> None:
    network = random_network("lora")
    own = {parameter.data_ptr() for parameter in network.parameters()}
    assert {parameter.data_ptr() for parameter in PublishedMFNet(network).parameters()} == own
