from __future__ import annotations

from typing import cast

import pytest
import torch
from networks import random_network, random_windows
from torch import nn

from mfnet.config import config_from_preset
from mfnet.model.network import MFNet
from mfnet.tuning import tuning_names
from mfnet.tuning.base import BlockTuning


@pytest.mark.parametrize("tuning", tuning_names())
def test_merged_equals_unmerged(tuning: str) -> None:
    """Official weights too: tests/export/rewrites."""
    network = random_network(tuning).double()
    windows = random_windows(2, network.config.window, torch.float64)
    with torch.no_grad():
        before = network(*windows)
        network.encoder.merge()
        after = network(*windows)
    assert (after - before).abs().max() <= 1e-10 * before.abs().max()


@pytest.mark.parametrize("tuning", tuning_names())
def test_zero_token_gives_the_qkv_bias(tuning: str) -> None:
    network = random_network(tuning)
    block = network.encoder.sam.blocks[0]
    unmerged = cast(BlockTuning, network.encoder.tuning[0])
    for form in (unmerged, unmerged.merge(block)):
        for stream in form.qkv(block, torch.zeros(32), torch.zeros(32)):
            assert torch.equal(stream, block.attn.qkv.bias)


@pytest.mark.parametrize("tuning", tuning_names())
def test_merge_twice_is_merge_once(tuning: str) -> None:
    encoder = random_network(tuning).encoder
    encoder.merge()
    once = list(encoder.tuning)
    encoder.merge()
    assert all(a is b for a, b in zip(encoder.tuning, once, strict=True))


@pytest.mark.parametrize("tuning", ["lora", "adapter"])
def test_merged_owns_its_weights_in_their_dtype(tuning: str) -> None:
    network = random_network(tuning).to(torch.float32)
    old = {parameter.data_ptr() for parameter in network.parameters()}
    network.encoder.merge()
    for parameter in network.encoder.tuning.parameters():
        assert parameter.data_ptr() not in old
        assert parameter.dtype is torch.float32
        assert not parameter.requires_grad


@pytest.mark.parametrize("tuning", ["lora", "adapter"])
def test_fresh_tuning_starts_as_sam(tuning: str) -> None:
    torch.manual_seed(0)
    network = MFNet(config_from_preset("tiny", classes=3, window=64, tuning=tuning)).eval()
    windows = random_windows(1, 64, torch.float32)
    with torch.no_grad():
        tuned = network(*windows)
        plain = MFNet(config_from_preset("tiny", classes=3, window=64, tuning="none")).eval()
        plain.load_state_dict(
            {k: v for k, v in network.state_dict().items() if "encoder.tuning" not in k}
        )
        torch.testing.assert_close(tuned, plain(*windows))
    network(*windows).square().mean().backward()
    second = ("lora_B", "D_fc2")  # what starts at zero must not stay there
    for name, parameter in network.encoder.tuning.named_parameters():
        if any(part in name for part in second):
            assert parameter.grad is not None
            assert parameter.grad.abs().max() > 0, name


def test_merged_lora_runs_fewer_operations() -> None:
    network = random_network("lora")
    block = network.encoder.sam.blocks[0]
    unmerged = cast(BlockTuning, network.encoder.tuning[0])
    x, y = torch.randn(2, 7, 32)

    def products(form: nn.Module) -> int:
        tuned = cast(BlockTuning, form)
        with torch.profiler.profile() as profile, torch.no_grad():
            tuned.qkv(block, x, y)
            tuned.mlp(block, x, y)
        return sum(event.count for event in profile.key_averages() if event.key == "aten::linear")

    assert (products(unmerged), products(unmerged.merge(block))) == (20, 10)
