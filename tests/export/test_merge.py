from __future__ import annotations

import pytest
import torch
from networks import random_network, random_windows
from torch import Tensor, nn

from mfnet.network import MFNet
from mfnet.tuning import tuning_names
from mfnet_export import merged_from_network
from mfnet_export.merge import STEPS, merged, replaced, shell
from mfnet_runtime.errors import UsageError

NAMES = [step.name for step in STEPS]


def logits(network: MFNet) -> Tensor:
    with torch.no_grad():
        out: Tensor = network(*random_windows(2, network.config.window, torch.float64))
        return out


@pytest.mark.parametrize("tuning", tuning_names())
@pytest.mark.parametrize("seed", [0, 1])
def test_merged_equals_unmerged_and_leaves_it_alone(tuning: str, seed: int) -> None:
    network = random_network(tuning, seed=seed).double()
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    modules = list(network.modules())
    before = logits(network)
    difference = (logits(merged_from_network(network)) - before).abs().max()
    assert difference <= 1e-10 * before.abs().max()
    assert all(a is b for a, b in zip(network.modules(), modules, strict=True))
    assert all(torch.equal(state[name], tensor) for name, tensor in network.state_dict().items())
    assert torch.equal(logits(network), before)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("tuning", ["lora", "adapter"])
def test_every_step_is_exact_alone_and_can_be_left_out(tuning: str, name: str) -> None:
    network = random_network(tuning).double()
    others = [other for other in NAMES if other != name]
    alone = merged(network, without=others)
    assert alone.steps == (name,)
    before = logits(network)
    assert (logits(alone.network) - before).abs().max() <= 1e-10 * before.abs().max()
    assert merged(network, without=[name]).steps == tuple(others)


@pytest.mark.parametrize("tuning", tuning_names())
def test_merged_twice_is_merged_once(tuning: str) -> None:
    once = merged_from_network(random_network(tuning))
    assert merged_from_network(once) is once
    assert merged(once).steps == ()


def test_only_steps_that_change_something_are_reported() -> None:
    assert merged(random_network("lora")).steps == tuple(NAMES)
    assert "merge-tuning" not in merged(random_network("none")).steps
    # a window of 256 px has just the 16 x 16 tokens of the tiny position embedding
    assert "resize-position" not in merged(random_network("lora", window=256)).steps


def test_without_steps_it_is_the_network_itself() -> None:
    network = random_network("lora")
    assert merged_from_network(network, without=NAMES) is network


def test_unchanged_modules_are_shared() -> None:
    network = random_network("adapter")
    made = merged_from_network(network)
    assert made.fusion is network.fusion
    assert made.encoder.sam.blocks is network.encoder.sam.blocks
    assert made.decoder is not network.decoder
    assert made.decoder.b4 is network.decoder.b4


def test_unknown_step_lists_the_known() -> None:
    with pytest.raises(UsageError, match=r"no rewrite named fuse; there are merge-tuning, "):
        merged(random_network("none"), without=["fuse"])


def test_shell_and_replaced_leave_the_original() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.ReLU(), nn.Linear(2, 2)))
    made = replaced(network, lambda module: nn.GELU() if isinstance(module, nn.ReLU) else None)
    kinds = [type(module).__name__ for module in made.modules()]
    assert kinds == ["Sequential", "Linear", "Sequential", "GELU", "Linear"]
    assert isinstance(network.get_submodule("1.0"), nn.ReLU)
    assert made[0] is network[0]
    assert replaced(network, lambda module: None) is network
    linear = nn.Linear(2, 2)
    own = shell(linear)
    own.weight = nn.Parameter(torch.zeros(2, 2))
    assert linear.weight.any()
