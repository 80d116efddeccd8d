from __future__ import annotations

import torch
from torch import nn

from mfnet_export.rewrites.surgery import replace_modules, shallow_copy


def test_the_original_is_not_changed() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.ReLU(), nn.Linear(2, 2)))
    made = replace_modules(
        network, lambda module: nn.GELU() if isinstance(module, nn.ReLU) else None
    )
    kinds = [type(module).__name__ for module in made.modules()]
    assert kinds == ["Sequential", "Linear", "Sequential", "GELU", "Linear"]
    assert isinstance(network.get_submodule("1.0"), nn.ReLU)
    assert made[0] is network[0]
    assert replace_modules(network, lambda module: None) is network
    linear = nn.Linear(2, 2)
    own = shallow_copy(linear)
    own.weight = nn.Parameter(torch.zeros(2, 2))
    assert linear.weight.any()
