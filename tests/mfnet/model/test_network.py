from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from networks import random_network, random_windows

from mfnet.model.decoder_attention import reflect_pad
from mfnet.model.encoder import attention
from mfnet.sam import window_partition, window_unpartition
from mfnet.tuning import tuning_names


@pytest.mark.parametrize("window", [32, 64, 96, 160])
def test_any_window_of_a_multiple_of_32_runs(window: int) -> None:
    network = random_network("lora", window=window)
    image, dsm = random_windows(2, window, torch.float32)
    with torch.no_grad():
        both = network(image, dsm)
        second = network(image[1:], dsm[1:])
    assert both.shape == (2, 3, window, window)
    assert both.isfinite().all()
    torch.testing.assert_close(both[1:], second, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("tuning", tuning_names())
def test_gradients_reach_every_trainable_parameter_and_no_other(tuning: str) -> None:
    network = random_network(tuning)
    network.freeze_for_tuning()
    network(*random_windows(2, 64, torch.float32)).square().mean().backward()
    for name, parameter in network.named_parameters():
        assert parameter.requires_grad != name.startswith("encoder.sam."), name
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.abs().max() > 0, name
        else:
            assert parameter.grad is None, name


def test_counts_follow_the_freezing() -> None:
    network = random_network("adapter")
    total = sum(parameter.numel() for parameter in network.parameters())
    assert network.parameter_counts().trainable == total
    network.freeze_for_tuning()
    counts = network.parameter_counts()
    frozen = sum(parameter.numel() for parameter in network.encoder.sam.parameters())
    assert (counts.frozen, counts.trainable) == (frozen, total - frozen)
    assert counts.tuning == sum(p.numel() for p in network.encoder.tuning.parameters()) > 0


@pytest.mark.parametrize(
    ("tuning", "part", "value"),
    [
        ("lora", "lora_B", 0),
        ("lora", "lora_qkv", 0),
        ("lora", "lora_wx", 1),  # no cross term into the image stream
        ("lora", "lora_wy", 1),
        ("adapter", "Img_Adapter", 0),
        ("adapter", "DSM_Adapter", 0),
        ("adapter", "wx_Adapter", 1),
        ("adapter", "wy_Adapter", 1),
        ("none", "pos_embed", 0),
        ("none", "rel_pos_", 0),
        ("none", "relative_position_bias_table", 0),
        ("none", "local1", 0),
        ("none", "se_depth", 0),
        ("none", "fpn1x", 0),
    ],
)
def test_every_part_moves_the_logits(tuning: str, part: str, value: int) -> None:
    network = random_network(tuning)
    windows = random_windows(1, 64, torch.float32)
    with torch.no_grad():
        before = network(*windows)
        for name, parameter in network.named_parameters():
            if part in name:
                parameter.fill_(value)
        after = network(*windows)
    assert (after - before).abs().max() > 1e-3 * before.std()


def test_both_inputs_matter() -> None:
    network = random_network("none")
    image, dsm = random_windows(1, 64, torch.float32)
    with torch.no_grad():
        before = network(image, dsm)
        for other in (network(image.flip(-1), dsm), network(image, dsm.flip(-1))):
            assert (other - before).abs().max() > 1e-2 * before.std()


@pytest.mark.parametrize("grid", [4, 16, 28])
def test_attention_is_sams(grid: int) -> None:
    network = random_network("none").double()
    tokens = torch.randn(2, grid, grid, 32, dtype=torch.float64)
    with torch.no_grad():
        for block in network.encoder.sam.blocks:
            expected = tokens
            if block.window_size:
                expected, padded = window_partition(expected, block.window_size)
            expected = block.attn(expected)
            if block.window_size:
                sides = (grid, grid)
                expected = window_unpartition(expected, block.window_size, padded, sides)
            ours = block.attn.proj(attention(block, block.attn.qkv(tokens)))
            torch.testing.assert_close(ours, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("image", "dsm"),
    [
        ((1, 3, 48, 48), (1, 1, 48, 48)),
        ((1, 3, 32, 64), (1, 1, 32, 64)),
        ((1, 3, 0, 0), (1, 1, 0, 0)),
        ((1, 4, 64, 64), (1, 1, 64, 64)),
        ((1, 3, 64, 64), (1, 3, 64, 64)),
        ((2, 3, 64, 64), (1, 1, 64, 64)),
        ((3, 64, 64), (1, 64, 64)),
    ],
)
def test_wrong_shapes_are_named(image: tuple[int, ...], dsm: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"this network takes \(N, 3, S, S\)"):
        random_network("none")(torch.rand(image), torch.rand(dsm))


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 5), (2, 3), (6, 6), (12, 8)])
def test_reflect_pad_is_numpys_and_torchs(height: int, width: int) -> None:
    x = torch.randn(2, 3, height, width)
    for below, right in ((0, 0), (1, 0), (0, 1), (2, 2), (7, 5)):
        padded = reflect_pad(x, below, right)
        expected = np.pad(x.numpy(), ((0, 0), (0, 0), (0, below), (0, right)), mode="reflect")
        assert torch.equal(padded, torch.from_numpy(expected))
        if below < height and right < width:
            assert torch.equal(padded, F.pad(x, (0, right, 0, below), mode="reflect"))
