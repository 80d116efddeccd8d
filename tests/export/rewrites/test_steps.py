from __future__ import annotations

from functools import cache
from itertools import pairwise

import pytest
import torch
from networks import INDEX, random_network, random_windows, reference_state, references
from torch import Tensor, nn

from mfnet.checkpoints.checkpoint import checkpoint_from_official, network_from_checkpoint
from mfnet.model.network import MFNet
from mfnet.tuning import tuning_names
from mfnet_export import merge
from mfnet_export.rewrites.steps import STEPS
from mfnet_export.rewrites.surgery import replace_modules
from mfnet_runtime.errors import UsageError

NAMES = [step.name for step in STEPS]
EXACT = 1e-10  # of the largest logit, in float64
tables = pytest.mark.parametrize("tables", ["random", "zero"])
tunings = pytest.mark.parametrize("tuning", tuning_names())


def logits(network: MFNet, count: int) -> Tensor:
    with torch.no_grad():
        out: Tensor = network(*random_windows(count, network.config.window, torch.float64))
        return out


@cache
def expected_logits(network: MFNet, count: int) -> Tensor:
    return logits(network, count)


def difference(network: MFNet, other: MFNet, count: int = 1) -> float:
    expected = expected_logits(network, count)
    return float((logits(other, count) - expected).abs().max() / expected.abs().max())


@cache
def example(tuning: str, window: int, tables: str) -> MFNet:
    """Make a random network in float64 with random or zero relative-position tables."""
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
    assert difference(network, merge(network).network) <= EXACT


# 4, 14, 16 and 32 tokens per side: no full window of 14, one, one and four of them
@pytest.mark.parametrize("window", [64, 224, 256, 512])
@tables
@tunings
def test_exact_in_every_shape(tuning: str, window: int, tables: str) -> None:
    network = example(tuning, window, tables)
    assert difference(network, merge(network).network, 1 if window == 512 else 3) <= EXACT


@tables
@pytest.mark.parametrize("name", NAMES)
@tunings
def test_every_step_is_exact_alone_and_can_be_left_out(tuning: str, name: str, tables: str) -> None:
    network = example(tuning, 256, tables)
    others = [other for other in NAMES if other != name]
    alone, rest = merge(network, without=others), merge(network, without=[name])
    assert alone.steps in ((name,), ())
    assert name not in rest.steps
    assert difference(network, alone.network) <= EXACT
    assert difference(network, rest.network) <= EXACT


def test_only_steps_that_change_something_are_reported() -> None:
    merged = merge(example("lora", 64, "zero"))
    assert merged.steps == tuple(NAMES)
    assert "zero-tables" not in merge(example("lora", 64, "random")).steps
    assert "merge-tuning" not in merge(example("none", 64, "random")).steps
    # a window of 256 px has exactly the 16 x 16 tokens of the tiny position embedding
    assert "resize-position" not in merge(example("lora", 256, "random")).steps
    costs = merged.costs()
    assert all(after.before == before.after for before, after in pairwise(costs))
    saved = {step.name: step.before - step.after for step in costs}
    assert min(saved["window-padding"], saved["dsm-band"], saved["zero-tables"]) > 0


@tunings
def test_the_original_is_not_changed(tuning: str) -> None:
    network = random_network(tuning).double()
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    modules, before = list(network.modules()), logits(network, 1)
    once = merge(network).network
    assert all(a is b for a, b in zip(network.modules(), modules, strict=True))
    assert all(torch.equal(state[name], tensor) for name, tensor in network.state_dict().items())
    assert torch.equal(logits(network, 1), before)
    assert merge(once).network is once  # merged twice is merged once
    for name in ("fusion.fpn2x.0.weight", "decoder.b4.attn.qkv.0.weight"):
        assert once.get_parameter(name) is network.get_parameter(name)
    assert once.encoder.sam.blocks[0].attn is not network.encoder.sam.blocks[0].attn


@pytest.mark.parametrize("name", ["query-scale", "key-bias", "zero-tables"])
def test_a_step_left_out_stays_out_after_padding_is_removed(name: str) -> None:
    network = example("none", 256, "zero")
    partly = merge(network, without=[name]).network
    assert difference(network, merge(partly).network) <= EXACT


def test_steps_left_out_by_name() -> None:
    network = random_network("lora")
    assert merge(network, without=NAMES).network is network
    with pytest.raises(UsageError, match=r"no rewrite named fuse; choose from merge-tuning, "):
        merge(network, without=["fuse"])


def test_replaced_modules_leave_the_original() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.ReLU(), nn.Linear(2, 2)))
    made = replace_modules(network, lambda m: nn.GELU() if isinstance(m, nn.ReLU) else None)
    kinds = [type(module).__name__ for module in made.modules()]
    assert kinds == ["Sequential", "Linear", "Sequential", "GELU", "Linear"]
    assert isinstance(network.get_submodule("1.0"), nn.ReLU)
    assert made[0] is network[0]
    assert replace_modules(network, lambda module: None) is network
