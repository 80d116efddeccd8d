from __future__ import annotations

import pytest
import torch
from networks import (
    INDEX,
    official_state,
    random_network,
    reference_state,
    reference_windows,
    references,
)

from mfnet.checkpoints.checkpoint import checkpoint_from_official, network_from_checkpoint
from mfnet.checkpoints.official import convert_official, is_official, our_name
from mfnet_runtime.errors import ModelError


@references
def test_logits_are_the_official_networks(name: str) -> None:
    checkpoint = checkpoint_from_official(reference_state(name))  # one network takes any window
    network = network_from_checkpoint(checkpoint).double()
    image, dsm, expected = reference_windows(name, torch.float64)
    with torch.no_grad():
        assert (network(image, dsm) - expected).abs().max().item() < 5e-6


@references
def test_configuration_is_read_off_the_tensors(name: str) -> None:
    config, _ = convert_official(reference_state(name))
    expected = INDEX[name]
    assert list(config.global_blocks) == expected["global_blocks"]
    for field in ("tuning", "embed_dim", "depth", "heads", "classes"):
        assert getattr(config, field) == expected[field], field
    assert (config.rank, config.position_grid, config.attention_window) == (4, 64, 14)
    assert (config.neck_channels, config.window) == (256, 256)


@pytest.mark.parametrize("tuning", ["lora", "adapter", "none"])
def test_official_names_map_onto_ours(tuning: str) -> None:
    network = random_network(tuning)
    state = official_state(network)
    assert is_official(state)
    config, weights = convert_official(state, window=64)
    assert config == network.config
    assert weights.keys() == network.state_dict().keys()
    assert all(torch.equal(weights[k], v) for k, v in network.state_dict().items())


def test_all_misfits_are_listed_at_once() -> None:
    state = official_state(random_network("lora"))
    del state["fpn2x.0.bias"]
    state["image_encoder.blocks.0.attn.proj.extra"] = torch.zeros(1)
    state["decoder.p3.weights"] = torch.zeros(3)
    state["decoder.b2.attn.relative_position_index"] = torch.zeros(64, 64, dtype=torch.int64)
    with pytest.raises(ModelError) as caught:
        convert_official(state)
    message = str(caught.value)
    assert "(4 tensors)" in message
    assert "missing: fusion.fpn2x.0.bias" in message
    assert "unexpected: image_encoder.blocks.0.attn.proj.extra" in message
    assert "shape (3,), expected (2,): decoder.p3.weights" in message
    assert "indexing: decoder.b2.attn.relative_position_index" in message


@pytest.mark.parametrize(
    "name",
    [
        "image_encoder.patch_embed.proj.weight",
        "image_encoder.pos_embed",
        "image_encoder.blocks.1.attn.rel_h",
        "image_encoder.neck.0.weight",
        "image_encoder.blocks.0.mlp.lin1.lora_Ax",
        "decoder.segmentation_head.2.0.weight",
    ],
)
def test_missing_tensor_the_configuration_needs_is_named(name: str) -> None:
    state = official_state(random_network("lora"))
    del state[name]
    with pytest.raises(ModelError, match=name):
        convert_official(state)


def test_block_of_two_tunings_is_refused() -> None:
    state = official_state(random_network("lora"))
    state["image_encoder.blocks.1.wx_Adapter"] = torch.zeros(1)
    with pytest.raises(ModelError, match=r"unexpected: image_encoder\.blocks\.1\.wx_Adapter"):
        convert_official(state)


def test_ablations_without_fusion_are_refused() -> None:
    state = official_state(random_network("lora"))
    state["decoder.pre_conv.1.num_batches_tracked"] = torch.tensor(5000)
    with pytest.raises(ModelError, match=r"Decoder_single, .* on 5000 batches, its fusion on none"):
        convert_official(state)
    state["fpn1y.1.num_batches_tracked"] = torch.tensor(5000)
    convert_official(state)


def test_other_files_are_not_official() -> None:
    none = torch.zeros(1)
    assert not is_official({"image_encoder.pos_embed": none, "mask_decoder.iou_token.weight": none})
    assert our_name("decoder.p3.weights", "lora") == "decoder.p3.weights"
