from __future__ import annotations

from functools import cache
from itertools import pairwise

import pytest
import torch
from networks import INDEX, random_network, random_windows, reference_state, references
from torch import Tensor

from mfnet.checkpoints.checkpoint import checkpoint_from_official, network_from_checkpoint
from mfnet.model.network import MFNet
from mfnet.tuning import tuning_names
from mfnet_export import merge
from mfnet_export.rewrites.steps import STEPS
from mfnet_runtime.errors import UsageError

NAMES = [step.name for step in STEPS]
EXACT = 1e-10  # of the largest logit, in float64


def logits(network: MFNet, count: int = 2, window: int | None = None) -> Tensor:
    with torch.no_grad():
        side = window or network.config.window
        out: Tensor = network(*random_windows(count, side, torch.float64))
        return out


def difference(network: MFNet, other: MFNet, count: int = 2) -> float:
    expected = logits(network, count)
    return float((logits(other, count) - expected).abs().max() / expected.abs().max())


@cache
def example(tuning: str, window: int, tables: str) -> MFNet:
    """A random network in float64 whose relative-position tables are random or zero."""
    network = random_network(tuning, window=window).double()
    if tables == "zero":
        for block in network.encoder.sam.blocks:
            for table in (block.attn.rel_pos_h, block.attn.rel_pos_w):
                table.data.zero_()
    return network


@references
def test_exact_on_official_checkpoints(name: str) -> None:
    window = INDEX[name].get("window", 256)
    checkpoint = checkpoint_from_official(reference_state(name), window=window)
    network = network_from_checkpoint(checkpoint).double()
    assert difference(network, merge(network).network, 1) <= EXACT


@pytest.mark.parametrize("tables", ["random", "zero"])
@pytest.mark.parametrize("window", [64, 224, 256, 512])
@pytest.mark.parametrize("tuning", tuning_names())
def test_exact_in_every_shape(tuning: str, window: int, tables: str) -> None:
    # 4, 14, 16 and 32 tokens a side: windows of 14 are none, one, one and four full ones
    network = example(tuning, window, tables)
    assert difference(network, merge(network).network, 1 if window == 512 else 3) <= EXACT


@pytest.mark.parametrize("tables", ["random", "zero"])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("tuning", tuning_names())
def test_every_step_is_exact_alone_and_can_be_left_out(tuning: str, name: str, tables: str) -> None:
    network = example(tuning, 256, tables)
    others = [other for other in NAMES if other != name]
    alone, rest = merge(network, without=others), merge(network, without=[name])
    assert alone.steps in ((name,), ())
    assert name not in rest.steps
    assert difference(network, alone.network) <= EXACT
    assert difference(network, rest.network) <= EXACT


def test_only_steps_that_change_something_are_reported() -> None:
    assert merge(example("lora", 64, "zero")).steps == tuple(NAMES)
    assert "zero-tables" not in merge(example("lora", 64, "random")).steps
    assert "merge-tuning" not in merge(example("none", 64, "random")).steps
    # a window of 256 px has just the 16 x 16 tokens of the tiny position embedding
    assert "resize-position" not in merge(example("lora", 256, "random")).steps


def test_saved_work_is_counted() -> None:
    costs = merge(example("lora", 256, "zero")).costs()
    assert all(after.before == before.after for before, after in pairwise(costs))
    saved = {step.name: step.before - step.after for step in costs}
    assert min(saved["window-padding"], saved["dsm-band"], saved["zero-tables"]) > 0


@pytest.mark.parametrize("tuning", tuning_names())
def test_the_original_stays_as_it_was(tuning: str) -> None:
    network = random_network(tuning).double()
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    modules, before = list(network.modules()), logits(network)
    merge(network)
    assert all(a is b for a, b in zip(network.modules(), modules, strict=True))
    assert all(torch.equal(state[name], tensor) for name, tensor in network.state_dict().items())
    assert torch.equal(logits(network), before)


@pytest.mark.parametrize("tuning", tuning_names())
def test_merged_twice_is_merged_once(tuning: str) -> None:
    once = merge(random_network(tuning)).network
    assert merge(once).network is once
    assert merge(once).steps == ()


@pytest.mark.parametrize("name", ["query-scale", "key-bias", "zero-tables"])
def test_what_was_left_out_stays_out_once_attention_has_no_padding(name: str) -> None:
    network = example("none", 256, "zero")
    partly = merge(network, without=[name]).network
    assert difference(network, merge(partly).network) <= EXACT


def test_without_steps_it_is_the_network_itself() -> None:
    network = random_network("lora")
    assert merge(network, without=NAMES).network is network


def test_unchanged_weights_are_shared() -> None:
    network = random_network("adapter")
    made = merge(network).network
    for name in ("fusion.fpn2x.0.weight", "decoder.b4.attn.qkv.0.weight"):
        assert made.get_parameter(name) is network.get_parameter(name)
    blocks = made.encoder.sam.blocks[0], network.encoder.sam.blocks[0]
    assert blocks[0].mlp is blocks[1].mlp
    assert blocks[0].attn is not blocks[1].attn


def test_unknown_step_lists_the_known() -> None:
    with pytest.raises(UsageError, match=r"no rewrite named fuse; choose from merge-tuning, "):
        merge(random_network("none"), without=["fuse"])
